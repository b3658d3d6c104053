"""Small synthetic voices that run on a CPU core: Pico, Flite, eSpeak NG.

Each voice is a function `(text, random) -> (int16 audio at 16 kHz, voice name)`. Pitch and rate are
drawn anew for every utterance. Sources: `py-nanotts` (Apache-2.0), Debian's `flite` (its own
permissive licence), `espeakng-loader` (GPL-3.0; a tool for making data, not a dependency).
"""

from __future__ import annotations

import ctypes
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from training.mel import SAMPLE_RATE
from voice_agent.services.espeak_ng import load_private_library

Speak = Callable[[str, random.Random], tuple[np.ndarray, str]]


def to_16k(audio: np.ndarray, rate: int) -> np.ndarray:
    """Resample float or int16 audio to int16 at 16 kHz, its peak kept below full scale."""
    wave = audio.astype(np.float32)
    if rate != SAMPLE_RATE:
        common = math.gcd(rate, SAMPLE_RATE)
        wave = resample_poly(wave, SAMPLE_RATE // common, rate // common)
    peak = float(np.abs(wave).max(initial=0.0))
    if peak < 1e-6:
        return np.zeros(0, np.int16)
    return np.round(wave * (16000.0 / peak)).astype(np.int16)


def loud_part(audio: np.ndarray, margin_s: float = 0.05) -> slice:
    """Return where the audio is without the silence at both ends, but for a margin."""
    loud = np.flatnonzero(np.abs(audio.astype(np.int32)) > 160)
    if not len(loud):
        return slice(0, 0)
    margin = int(margin_s * SAMPLE_RATE)
    return slice(max(0, int(loud[0]) - margin), min(len(audio), int(loud[-1]) + margin))


def trimmed(audio: np.ndarray) -> np.ndarray:
    """Cut the silence at both ends."""
    return audio[loud_part(audio)]


def pico() -> Speak:
    """SVOX Pico, American and British."""
    from py_nanotts import NanoTTS

    engine = NanoTTS()

    def speak(text: str, r: random.Random) -> tuple[np.ndarray, str]:
        voice = r.choice(["en-US", "en-GB"])
        pcm = engine.speak(text, voice, r.uniform(0.75, 1.35), r.uniform(0.72, 1.35))
        return trimmed(to_16k(np.frombuffer(pcm, "<i2"), 16000)), f"pico/{voice}"

    return speak


class _FliteWave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


def _segments(library: ctypes.CDLL, utterance: int) -> list[tuple[str, float]]:
    """Return the phones of a synthesised utterance, each with the second at which it ends."""
    found = []
    item = library.relation_head(library.utt_relation(utterance, b"Segment"))
    while item:
        name = library.item_feat_string(item, b"name").decode()
        found.append((name, library.item_feat_float(item, b"end")))
        item = library.item_next(item)
    return found


def flite(library_folder: Path | None = None) -> Callable[[str, random.Random], tuple]:
    """Flite's clunits-free voices: slt, awb, rms (statistical) and kal16 (diphones).

    They also tell what they said when: their third result is a list of (phone, end in samples).
    """

    def load(name: str) -> ctypes.CDLL:
        path = str(library_folder / name) if library_folder else name
        return ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)

    library = load("libflite.so.1")
    library.flite_init()
    load("libflite_usenglish.so.1"), load("libflite_cmulex.so.1")
    pointer, text_ = ctypes.c_void_p, ctypes.c_char_p
    for name, result, arguments in (
        ("flite_synth_text", pointer, [text_, pointer]),
        ("utt_wave", ctypes.POINTER(_FliteWave), [pointer]),
        ("utt_relation", pointer, [pointer, text_]),
        ("relation_head", pointer, [pointer]),
        ("item_next", pointer, [pointer]),
        ("item_feat_string", text_, [pointer, text_]),
        ("item_feat_float", ctypes.c_float, [pointer, text_]),
        ("delete_utterance", None, [pointer]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.flite_feat_set_float.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float]
    voices = {}
    for name, pitch in (
        ("us_slt", 180.0),
        ("us_awb", 125.0),
        ("us_rms", 100.0),
        ("us_kal16", 100.0),
    ):
        register = getattr(load(f"libflite_cmu_{name}.so.1"), f"register_cmu_{name}")
        register.restype, register.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        voice = register(None)
        # The features are the second member of cst_voice: name, features.
        features = ctypes.cast(voice, ctypes.POINTER(ctypes.c_void_p))[1]
        voices[name] = (voice, features, pitch)

    def speak(text: str, r: random.Random) -> tuple[np.ndarray, str, list[tuple[str, int]]]:
        name = r.choice(["us_slt", "us_slt", "us_awb", "us_awb", "us_rms", "us_rms", "us_kal16"])
        voice, features, pitch = voices[name]
        library.flite_feat_set_float(features, b"duration_stretch", r.uniform(0.75, 1.3))
        shift = math.exp(r.uniform(-0.25, 0.3))
        library.flite_feat_set_float(features, b"int_f0_target_mean", pitch * shift)
        utterance = library.flite_synth_text(text.encode(), voice)
        try:
            wave = library.utt_wave(utterance).contents
            audio = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).copy()
            audio = to_16k(audio, wave.sample_rate)
            segments = _segments(library, utterance)
        finally:
            library.delete_utterance(utterance)
        part = loud_part(audio)
        phones = [(phone, round(end_s * SAMPLE_RATE) - part.start) for phone, end_s in segments]
        return audio[part], f"flite/{name}", phones

    return speak


def speller(library_folder: Path | None = None) -> Callable[[str], list[str]]:
    """Return a function from a word to the phones that Flite says it with."""
    speak, still = flite(library_folder), random.Random(0)
    return lambda word: [phone for phone, _ in speak(word, still)[2]]


class Espeak:
    """eSpeak NG through ctypes: a voice of many accents, and the phonemes for neural voices."""

    ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan")
    VARIANTS = ("", "+f1", "+f2", "+f3", "+f4", "+m1", "+m3", "+m5", "+m7", "+Annie", "+Michael")

    def __init__(self) -> None:
        import espeakng_loader

        self.library = load_private_library()
        self.library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        data = espeakng_loader.get_data_path().encode()
        self.rate = self.library.espeak_Initialize(2, 0, data, 0)  # synchronous
        if self.rate <= 0:
            raise RuntimeError("eSpeak NG did not start; is espeakng-loader whole?")
        self.pieces: list[np.ndarray] = []
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )

        def take(samples: ctypes.Array, count: int, _: object) -> int:
            if samples and count > 0:
                self.pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0

        self._callback = kind(take)  # kept: the library holds only its address
        self.library.espeak_SetSynthCallback(self._callback)

    def phonemes(self, text: str, voice: str = "en-us") -> str:
        """Return the text's phonemes in IPA, with stress marks."""
        self.library.espeak_SetVoiceByName(voice.encode())
        pointer, parts = ctypes.c_char_p(text.encode()), []
        while pointer.value:
            piece = self.library.espeak_TextToPhonemes(ctypes.byref(pointer), 1, 2)
            parts.append(piece.decode())
        return " ".join(parts)

    def __call__(self, text: str, r: random.Random) -> tuple[np.ndarray, str]:
        """Speak in a random accent and variant."""
        name = r.choice(self.ACCENTS) + r.choice(self.VARIANTS)
        self.library.espeak_SetVoiceByName(name.encode())
        self.library.espeak_SetParameter(1, r.randint(120, 200), 0)  # words a minute
        self.library.espeak_SetParameter(3, r.randint(25, 80), 0)  # pitch
        self.library.espeak_SetParameter(4, r.randint(30, 70), 0)  # range
        self.pieces = []
        encoded = text.encode() + b"\0"
        self.library.espeak_Synth(encoded, len(encoded), 0, 1, 0, 1, None, None)
        audio = np.concatenate(self.pieces) if self.pieces else np.zeros(0, np.int16)
        return trimmed(to_16k(audio, self.rate)), f"espeak/{name}"
