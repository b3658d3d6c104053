"""Speech in several languages for `bench lid` and `bench gate`.

Either the clips of a manifest, or, where there is none, sentences that espeak-ng speaks here. The
latter is what `tiny-lid` and `tiny-kn` were trained on the like of: it shows that all works, and
flatters both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from voice_agent.engine.lid import SpeechMeter
from voice_agent.engine.recognizer import SAMPLE_RATE

PIECE = SAMPLE_RATE * 80 // 1000
SPOKEN = "espeak-ng"

SENTENCES = {
    "en": (
        "Good morning, I would like to book a table for two people this evening.",
        "Could you tell me when the next train to the city leaves from here?",
        "The doctor said that the children should drink more water every day.",
        "My phone has not been working since the day before yesterday.",
        "Please send the letter to my new address near the old market.",
        "We walked along the river until it was too dark to see the path.",
    ),
    "kn": (
        "ಮಕ್ಕಳು ಶಾಲೆಗೆ ಹೋದರು, ನಾನು ಬೆಂಗಳೂರಿಗೆ ಹೋಗುತ್ತೇನೆ.",
        "ನನಗೆ ನಾಳೆ ಬೆಳಿಗ್ಗೆ ಎಂಟು ಗಂಟೆಗೆ ಒಂದು ಟಿಕೆಟ್ ಬೇಕು.",
        "ಈ ರಸ್ತೆ ರೈಲು ನಿಲ್ದಾಣಕ್ಕೆ ಹೋಗುತ್ತದೆಯೇ ಎಂದು ಹೇಳಿ.",
        "ನನ್ನ ಹೆಸರು ರವಿ, ನಾನು ಮೈಸೂರಿನಲ್ಲಿ ವಾಸಿಸುತ್ತೇನೆ.",
        "ಇಂದು ಮಳೆ ಬರುತ್ತಿದೆ, ಆದ್ದರಿಂದ ನಾವು ಮನೆಯಲ್ಲೇ ಇರುತ್ತೇವೆ.",
        "ದಯವಿಟ್ಟು ನನ್ನ ಖಾತೆಯಲ್ಲಿ ಎಷ್ಟು ಹಣ ಇದೆ ಎಂದು ತಿಳಿಸಿ.",
    ),
    "hi": (
        "नमस्ते, मुझे कल सुबह दिल्ली जाने वाली गाड़ी का टिकट चाहिए.",
        "बच्चे विद्यालय जा रहे हैं और आज बहुत गर्मी है.",
        "कृपया मुझे बताइए कि मेरे खाते में कितने रुपये हैं.",
    ),
}
VOICES = ("", "+f5", "+m5", "+m8")  # variants that tiny-lid never heard


@dataclass(frozen=True, slots=True)
class Utterance:
    """Somebody says something in a language.

    Attributes:
        name: unique within a run.
        language: BCP-47 code, without a region.
        pcm: float32, shape (n,), 16 kHz mono.
    """

    name: str
    language: str
    pcm: np.ndarray


def read(manifest: Path | None, languages: Sequence[str] = ()) -> list[Utterance]:
    """A manifest's clips, or espeak-ng's sentences.

    Args:
        manifest: as `voice_agent.bench.corpus` reads it; None for espeak-ng.
        languages: only these; empty for all.

    Raises:
        BadManifest: nothing usable there.
    """
    if manifest is None:
        return spoken(languages)
    from voice_agent.bench import corpus

    clips = [c for c in corpus.read(manifest) if not languages or c.language in languages]
    return [Utterance(clip.name, clip.language, clip.pcm()) for clip in clips]


def spoken(languages: Sequence[str] = ()) -> list[Utterance]:
    """Have espeak-ng speak every sentence in every voice."""
    return asyncio.run(_speak([code for code in SENTENCES if not languages or code in languages]))


async def _speak(languages: Sequence[str]) -> list[Utterance]:
    import soxr

    from voice_agent.services.espeak_ng import espeak_ng

    engine, found = espeak_ng(), []
    for language in languages:
        for number, sentence in enumerate(SENTENCES[language]):
            for variant in VOICES:
                voice = ("en-us" if language == "en" else language) + variant
                said = b"".join([piece async for piece in engine.speak(sentence, voice)])
                pcm = np.frombuffer(said, "<i2").astype(np.float32) / 32768.0
                heard = soxr.resample(pcm, engine.sample_rate, SAMPLE_RATE).astype(np.float32)
                found.append(Utterance(f"{voice}/{number}", language, heard))
    return found


def excerpts(pcm: np.ndarray, speech_s: float, hop_s: float = 3.0) -> Iterator[np.ndarray]:
    """Stretches that hold so much speech, as a segment does when the gate asks about it.

    One begins every `hop_s` seconds, and ends with the 80 ms piece in which its speech is enough.
    """
    for start in range(0, len(pcm), round(hop_s * SAMPLE_RATE)):
        meter = SpeechMeter()
        for stop in range(start + PIECE, len(pcm) + 1, PIECE):
            meter.append(pcm[stop - PIECE : stop])
            if meter.seconds() >= speech_s:
                yield pcm[start:stop]
                break
