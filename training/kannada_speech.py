"""Kannada speech from eSpeak NG: many voices, any number of utterances, the same for a seed.

An utterance is named by (seed, index); its text, voice, rate and pitch follow from that name
alone, so any worker may speak any of them. eSpeak NG 1.51 or later, through `espeakng-loader`.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.aligned import Mark, Spoken, write
from training.kannada_text import KannadaText
from training.voices import Espeak, loud_part, to_16k, trimmed

PHONEME_EVENTS, IN_IPA, PHONEME = 1, 2, 7  # espeak_Initialize's options, and the type of an event

VOICES = ("", "+f1", "+f2", "+f3", "+f4", "+m1", "+m2", "+m3", "+m4", "+m6", "+m7", "+Annie")
VOICES += ("+Michael", "+Alicia", "+Andy", "+Gene", "+Jacky", "+anika", "+belinda", "+ed", "+linda")
VOICES += ("+steph", "+victor", "+klatt", "+klatt3", "+Mario", "+zac", "+max", "+rob", "+aunty")
HELD_OUT_VOICES = ("+f5", "+m5", "+m8", "+Lee", "+sandro", "+klatt2", "+iven", "+marcelo")


def kannada_voice() -> Espeak:
    """Start eSpeak NG; one a process."""
    return Espeak()


def speak(
    engine: Espeak, text: str, r: random.Random, variants: tuple[str, ...], language: str = "kn"
) -> tuple[np.ndarray, str]:
    """Speak text with a drawn variant, rate and pitch.

    Returns:
        int16 at 16 kHz, shape (n,), trimmed; and `kn/VARIANT`.
    """
    name = language + r.choice(variants)
    library = engine.library
    if library.espeak_SetVoiceByName(name.encode()):
        raise RuntimeError(f"eSpeak NG has no voice {name!r}")
    library.espeak_SetParameter(1, r.randint(110, 210), 0)  # words a minute
    library.espeak_SetParameter(3, r.randint(15, 85), 0)  # pitch
    library.espeak_SetParameter(4, r.randint(20, 80), 0)  # range
    engine.pieces = []
    encoded = text.encode() + b"\0"
    library.espeak_Synth(encoded, len(encoded), 0, 1, 0, 1, None, None)
    audio = np.concatenate(engine.pieces) if engine.pieces else np.zeros(0, np.int16)
    return trimmed(to_16k(audio, engine.rate)), f"{language}/{name}"


class _Event(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h; the last member is a union, of which we read the string."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("string", ctypes.c_char * 8),
    )


class AlignedEspeak(Espeak):
    """eSpeak NG that also tells when each phoneme begins."""

    def __init__(self) -> None:
        super().__init__()
        import espeakng_loader

        self.begins: list[tuple[int, str]] = []
        data = espeakng_loader.get_data_path().encode()
        self.rate = self.library.espeak_Initialize(2, 0, data, PHONEME_EVENTS | IN_IPA)
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
        )

        def take(samples: ctypes.Array, count: int, events: ctypes.Array) -> int:
            if samples and count > 0:
                self.pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
            at = 0
            while events and events[at].type:
                if events[at].type == PHONEME:
                    name = events[at].string.decode("utf-8", "replace")
                    self.begins.append((events[at].audio_position, name))
                at += 1
            return 0

        self._aligned = kind(take)  # kept: the library holds only its address
        self.library.espeak_SetSynthCallback(self._aligned)


def aligned_speech(
    engine: AlignedEspeak,
    text: str,
    r: random.Random,
    variants: tuple[str, ...],
    language: str = "kn",
) -> tuple[np.ndarray, str, list[Mark]]:
    """Speak as `speak` does; also tell at which sample each phoneme begins, by its IPA name."""
    engine.begins = []
    audio, voice = speak(engine, text, r, variants, language)
    if not engine.pieces:
        return audio, voice, []
    gone = loud_part(to_16k(np.concatenate(engine.pieces), engine.rate)).start
    marks = [(ms * 16 - gone, name.lstrip("ˈˌ")) for ms, name in engine.begins]
    return audio, voice, marks


def utterances(
    text: KannadaText, seed: int, indices: range, held_out: bool = False
) -> Iterator[Spoken]:
    """Speak the utterances of these names; (audio, text, voice, phonemes) each.

    Args:
        text: draws the sentences.
        seed: of text, voice, rate and pitch.
        indices: names of the utterances.
        held_out: held-out words in held-out voices.
    """
    engine = AlignedEspeak()
    variants = HELD_OUT_VOICES if held_out else VOICES
    for index in indices:
        r = random.Random(f"{seed}/{held_out}/{index}")
        sentence = text.sentence(r, held_out)
        audio, voice, marks = aligned_speech(engine, sentence, r, variants)
        if len(audio):
            yield audio, sentence, voice, marks


def _shard(job: tuple[str, str | None, int, int, int]) -> float:
    folder, text_folder, seed, begin, end = job
    text = KannadaText.read(Path(text_folder)) if text_folder else KannadaText()
    return write(Path(folder), f"{begin:07d}", utterances(text, seed, range(begin, end)))


def fill(
    folder: Path, text_folder: Path | None, seed: int, count: int, workers: int, shard: int = 250
) -> multiprocessing.pool.AsyncResult[list[float]]:
    """Begin to speak `count` utterances into shards under `folder`, in `workers` processes.

    Returns:
        A result whose `get()` waits, and gives the seconds of every shard.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    jobs = [
        (str(folder), str(text_folder) if text_folder else None, seed, b, min(b + shard, count))
        for b in range(0, count, shard)
    ]
    context = multiprocessing.get_context("spawn")
    pool = context.Pool(workers, maxtasksperchild=20)
    result = pool.map_async(_shard, jobs, chunksize=1)
    pool.close()
    return result
