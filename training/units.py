"""Any sentence in people's voices: their clips' phones, put together anew.

`training.splice` joins words that people have said; this says what they have not. A sentence's
phones are covered by stretches of the clips, each as long as is found, which overlap by one phone
and are joined in its middle, where it changes least (unit selection: Hunt and Black 1996). Nobody
would take it for speech, but every sound and nearly every change from one sound to the next is a
person's, in a room, through a microphone; and no sentence is there to be learnt by heart.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from training.align import common, spelt
from training.foreign import foreign_words
from training.mel import SAMPLE_RATE
from training.pool import PHONES
from training.speech_text import Script
from training.splice import Aligned, drawn_clips, write_hours
from training.synthesise import load_speller

FADE = SAMPLE_RATE // 100  # 10 ms, at most
LONGEST_S = 14.0
LOUD = 2500.0  # root mean square of every clip, int16
_TRIED = 4000  # places looked at for the next stretch
_MOST = 12  # phones of a stretch
_PATIENCE = 1000  # lines that cannot be said, one after another
_CODES = {phone: code for code, phone in enumerate(PHONES)}
_SILENCE = _CODES["pau"]
_BREAK = len(PHONES)  # stands between two clips, and for what is not known

Spell = Callable[[str], Sequence[str]]


class Units:
    """All phones of the clips in one line, and where each pair of them is found."""

    def __init__(self, clips: Sequence[Aligned]) -> None:
        audio, codes, begins, ends, owners = [], [], [], [], []
        at = 0
        for owner, clip in enumerate(clips):
            begin = 0
            for phone, end in clip.phones:
                end = min(end, len(clip.audio))
                codes.append(_CODES.get(phone, _BREAK) if end > begin else _BREAK)
                begins.append(at + begin)
                ends.append(at + end)
                owners.append(owner)
                begin = max(begin, end)
            codes.append(_BREAK)
            begins.append(at + begin)
            ends.append(at + begin)
            owners.append(owner)
            loud = np.sqrt(np.square(clip.audio, dtype=np.float64).mean() + 1.0)
            audio.append(clip.audio * np.float32(LOUD / loud))
            at += len(clip.audio)
        self.audio = np.concatenate(audio)
        self.codes, self.owners = np.array(codes), np.array(owners)
        self.begins, self.ends = np.array(begins), np.array(ends)
        pairs = self.codes[:-1] * (_BREAK + 1) + self.codes[1:]
        order = np.argsort(pairs, kind="stable")
        keys, first = np.unique(pairs[order], return_index=True)
        self._pairs = dict(zip(keys.tolist(), np.split(order, first[1:]), strict=True))

    def stretch(
        self, wanted: np.ndarray, before: int, r: np.random.Generator
    ) -> tuple[int, int] | None:
        """Find a place where `wanted` begins to be said.

        Args:
            wanted: codes of the phones, at least two.
            before: place at which the stretch before ended; its clip is preferred.
            r: draws among what is as good.

        Returns:
            The place, and how many of the phones it has; None where not even two are found.
        """
        places = self._pairs.get(int(wanted[0]) * (_BREAK + 1) + int(wanted[1]))
        if places is None:
            return None
        if len(places) > _TRIED:
            places = r.choice(places, _TRIED, replace=False)
        size = np.full(len(places), 2)
        alive = np.arange(len(places))
        for ahead in range(2, min(len(wanted), _MOST)):
            # A break ends every clip, and none is wanted: no place here lies behind the last one.
            alive = alive[self.codes[places[alive] + ahead] == wanted[ahead]]
            if not len(alive):
                break
            size[alive] = ahead + 1
        same = self.owners[places] == self.owners[before]
        best = int((size + 0.5 * same + r.random(len(places))).argmax())
        return int(places[best]), int(size[best])

    def between(self, place: int, last: int) -> tuple[np.ndarray, list[int]]:
        """Return what is heard from the middle of one phone to that of a later one of its clip.

        Returns:
            The audio, and the samples of it at which its phones end, but for the last one.
        """
        begin = self._middle(place)
        ends = [int(end) - begin for end in self.ends[place:last]]
        return self.audio[begin : self._middle(last)], ends

    def beside(
        self, before: int, phone: int, r: np.random.Generator
    ) -> tuple[np.ndarray, list[int], int] | None:
        """Let a phone follow the one at `before` that nobody said after it.

        Returns:
            As `between`, and where the phone is from; None where it is nowhere.
        """
        places = np.flatnonzero(self.codes == phone)
        if not len(places):
            return None
        place = int(r.choice(places))
        rest = self.audio[self._middle(before) : self.ends[before]]
        audio, fade = _joined(rest, self.audio[self.begins[place] : self._middle(place)])
        return audio, [len(rest) - fade], place

    def _middle(self, place: int) -> int:
        return int(self.begins[place] + self.ends[place]) // 2


def _joined(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, int]:
    """Fade one piece into the other; return both, and the samples that they share."""
    fade = min(FADE, len(one) // 3, len(other) // 3)
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    shared = one[len(one) - fade :] * ramp[::-1] + other[:fade] * ramp
    return np.concatenate([one[: len(one) - fade], shared, other[fade:]]), fade


def say(
    units: Units, wanted: Sequence[int], r: np.random.Generator
) -> tuple[np.ndarray, list[tuple[str, int]]] | None:
    """Say phones, which begin and end in silence.

    Returns:
        int16 audio and the phones with the sample at which each ends; None where one of the
        phones, or the first pair of them, is said nowhere.
    """
    line = np.array(wanted)
    at, before = 0, int(r.integers(len(units.codes)))
    audio = np.zeros(0, np.float32)
    said: list[tuple[str, int]] = []
    while at < len(line) - 1:
        if found := units.stretch(line[at:], before, r):
            place, size = found
            before = place + size - 1
            piece, ends = units.between(place, before)
        elif at and (made := units.beside(before, int(line[at + 1]), r)):
            piece, ends, before = made
        else:
            return None
        samples = len(audio)
        audio, fade = _joined(audio, piece)
        # The first phone began in the piece before, and the last one ends in the next.
        for phone, end in zip(line[at:], ends, strict=False):
            said.append((PHONES[phone], samples - fade + max(fade, end)))
        at += len(ends)
    said.append((PHONES[line[-1]], len(audio)))
    return np.clip(audio, -32767, 32767).astype(np.int16), said


def read_dictionary(path: Path | None = None) -> dict[str, list[list[str]]]:
    """Return each word's pronunciations from CMU's dictionary; None takes PocketSphinx's own."""
    if path is None:
        import pocketsphinx

        path = Path(pocketsphinx.get_model_path()) / "en-us/cmudict-en-us.dict"
    said: dict[str, list[list[str]]] = {}
    for line in path.read_text().splitlines():
        word, *phones = line.split()
        said.setdefault(word.split("(")[0], []).append([common(phone) for phone in phones])
    return said


def phones_of(
    text: str, dictionary: dict[str, list[list[str]]], spell: Spell, r: random.Random
) -> list[int] | None:
    """Return the codes of what a line of words is said with, in some accent, with pauses.

    None where a word can be spelt by neither the dictionary, which learns it, nor `spell`.
    """
    silent = r.choice([0.0, 0.05, 0.15])
    words = []
    for word in text.split():
        if word not in dictionary:
            dictionary[word] = [spelt(word, spell)]
        words.append(r.choice(dictionary[word]))
    if not all(words):
        return None
    codes = [_SILENCE]
    for phones in foreign_words(words, r):
        codes += [_CODES[phone] for phone in phones]
        if r.random() < silent:
            codes.append(_SILENCE)
    return [*codes, _SILENCE] if codes[-1] != _SILENCE else codes


def spoken(
    clips: Sequence[Aligned], line: Callable[[], str], spell: Spell, seed: int
) -> Iterator[tuple]:
    """Yield (audio, text, voice, phones) for ever; at most 14 s long.

    Args:
        clips: of people.
        line: gives the next text.
        spell: phones of a word that the dictionary lacks.
        seed: fixes every draw but the text's.

    Raises:
        ValueError: the clips are so few that hardly any line can be said.
    """
    units, dictionary = Units(clips), read_dictionary()
    draw, r = random.Random(seed), np.random.default_rng(seed)
    failed = 0
    while failed < _PATIENCE:
        text = " ".join(line().split()[: draw.choice([4, 8, 14, 20, 28])])
        wanted = phones_of(text, dictionary, spell, draw)
        made = say(units, wanted, r) if wanted else None
        if made is None or not 0.3 * SAMPLE_RATE < len(made[0]) <= LONGEST_S * SAMPLE_RATE:
            failed += 1
            continue
        failed = 0
        yield made[0], text, "units/mixed", made[1]
    raise ValueError(
        f"{_PATIENCE} lines on end need sounds that {len(clips)} clips do not have: give more clips"
    )


def write_units(pool: Path, hours: float, seed: int, script: Script, spell: Spell) -> None:
    """Write shards of sentences put together from the aligned human clips of a pool.

    Args:
        pool: where the shards `human*` lie.
        hours: to make.
        seed: fixes what is made.
        script: what is said.
        spell: phones of a word that the dictionary lacks.
    """
    source = spoken(drawn_clips(pool, seed), script.line, spell, seed)
    write_hours(source, pool, f"units-{seed}", hours)


def main() -> None:
    """Read the command line and write shards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", type=Path, required=True, help="with the shards `human*`")
    parser.add_argument("--books", type=Path, required=True, help="sentences, one a line")
    parser.add_argument("--examples", type=Path, help="more sentences, one a line")
    parser.add_argument("--files", type=Path, help="folder of Flite, if not the system's")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    script = Script.from_files(args.books, args.examples, args.seed)
    write_units(args.pool, args.hours, args.seed, script, load_speller(args.files))


if __name__ == "__main__":
    main()
