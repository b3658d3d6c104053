"""Which phone is spoken when: forced alignment of speech with its text by PocketSphinx.

The recipe tells the encoder's frames their phones, which ends the plateau that CTC alone stays on.
Flite says itself what it spoke when; for people and all other voices this does. PocketSphinx
(BSD) brings an acoustic model and CMU's dictionary; words that it does not know are spelt by
Flite's letter-to-sound rules.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from training.mel import SAMPLE_RATE

FRAME = SAMPLE_RATE // 100  # of PocketSphinx
ALIKE = {"ax": "ah", "axr": "er", "hv": "hh", "dx": "t", "nx": "n", "el": "l", "em": "m"}
ALIKE |= {"en": "n", "sil": "pau"}
UNKNOWN = "?"  # no phone is known here


def common(phone: str) -> str:
    """Return the one name that both inventories (CMU's and Flite's) have for a phone."""
    phone = phone.lower().rstrip("012")
    return ALIKE.get(phone, phone) if not phone.startswith(("+", "<", "[")) else "pau"


def spelt(word: str, spell: Callable[[str], Sequence[str]]) -> list[str]:
    """Return the phones that `spell` says a word with, under their common names, no silence."""
    return [phone for phone in map(common, spell(word)) if phone != "pau"]


class Aligner:
    """Aligns one utterance after another; keeps no state between them."""

    def __init__(
        self, model: Path | None = None, spell: Callable[[str], list[str]] | None = None
    ) -> None:
        """Load the acoustic model.

        Args:
            model: folder with `en-us/` and `cmudict-en-us.dict`; None takes the package's own.
            spell: phones of a word that the dictionary lacks; None leaves its utterance out.
        """
        sphinx = importlib.import_module("pocketsphinx")
        model = model or Path(sphinx.get_model_path()) / "en-us"
        self._decoder = sphinx.Decoder(
            hmm=str(model / "en-us"),
            dict=str(model / "cmudict-en-us.dict"),
            lm=None,
            loglevel="FATAL",
            beam=1e-80,
            wbeam=1e-60,
        )
        self._spell = spell

    def _knows(self, word: str) -> bool:
        if self._decoder.lookup_word(word) is not None:
            return True
        if self._spell is None:
            return False
        phones = spelt(word, self._spell)
        if not phones:
            return False
        self._decoder.add_word(word, " ".join(phones).upper(), True)
        return True

    def __call__(
        self, audio: np.ndarray, text: str
    ) -> tuple[list[tuple[str, int]], list[tuple[str, int, int]]] | None:
        """Align.

        Args:
            audio: int16, 16 kHz.
            text: lower-case words.

        Returns:
            Phones with the sample at which each ends, and words with their first sample and the
            one after their last; None where the text does not fit the audio.
        """
        if not all(self._knows(word) for word in text.split()):
            return None
        # A little silence lets the aligner begin and end in it.
        margin = np.zeros(SAMPLE_RATE // 10, np.int16)
        pcm = np.concatenate([margin, audio, margin]).tobytes()
        offset = len(margin)
        with contextlib.suppress(RuntimeError):
            self._decoder.set_align_text(text)
            self._run(pcm)
            rough = self._words(len(audio), offset)
            if " ".join(w for w, _, _ in rough) != text:
                return None
            phones: list[tuple[str, int]] = []
            words: list[tuple[str, int, int]] = []
            try:
                self._decoder.set_alignment()
                self._run(pcm)
            except RuntimeError:  # the closer look at its phones did not reach the end
                for _, begin, end in rough:
                    phones += [("pau", begin), (UNKNOWN, end)]
                return phones, rough
            for word in self._decoder.get_alignment():
                begin = max(0, word.start * FRAME - offset)
                end = (word.start + word.duration) * FRAME - offset
                if not word.name.startswith(("<", "[")):
                    words.append((word.name.split("(")[0], begin, min(end, len(audio))))
                for phone in word:
                    end = (phone.start + phone.duration) * FRAME - offset
                    if end > 0:
                        phones.append((common(phone.name), min(end, len(audio))))
            if " ".join(w for w, _, _ in words) == text:
                return phones, words
        return None

    def _words(self, samples: int, offset: int) -> list[tuple[str, int, int]]:
        """The words of the first pass."""
        found = []
        for word in self._decoder.seg() or ():
            if not word.word.startswith(("<", "[", "(")):
                begin = max(0, word.start_frame * FRAME - offset)
                end = min(samples, (word.end_frame + 1) * FRAME - offset)
                found.append((word.word.split("(")[0], begin, end))
        return found

    def _run(self, pcm: bytes) -> None:
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, full_utt=True)
        self._decoder.end_utt()
