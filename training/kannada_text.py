"""Kannada text to speak: words, phrases, numbers and the small talk of a voice agent.

    words.txt      61 thousand words (Debian's aspell-kn, GPL-3.0+)
    sentences.txt  3 thousand phrases (LibreOffice's translation, MPL-2.0; iso-codes, LGPL-2.1+)
    numbers.txt    numbers in words (indic-numtowords, MIT)
    tokens.model   256 byte-pair pieces over all that (SentencePiece)

`python -m training.kannada_text` fetches and writes them to `.data/kn`. One word in 25 is held
out by a hash of its letters: `sentence(…, held_out=False)` never says one, and held-out
sentences hold at least one each.
"""

from __future__ import annotations

import argparse
import random
import re
import unicodedata
import zlib
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("aspell", "aspell-kn", "libreoffice-l10n-kn", "iso-codes")
PIECES = 256
LETTER = (
    "[\u0c82\u0c83\u0c85-\u0c8c\u0c8e-\u0c90\u0c92-\u0ca8\u0caa-\u0cb3\u0cb5-\u0cb9"
    "\u0cbe-\u0cc4\u0cc6-\u0cc8\u0cca-\u0ccd]"
)
WORD = re.compile(f"{LETTER}{{2,24}}")

NAMES = (
    "ರವಿ ಸೀತಾ ಲಕ್ಷ್ಮಿ ಮಂಜುನಾಥ ಗಣೇಶ ಅನಿತಾ ಸುಮಾ ಪ್ರಕಾಶ ವಿಜಯ ಕಾವ್ಯ ದೀಪಾ ಶಂಕರ ಮಹೇಶ ಗೀತಾ ನಾಗರಾಜ "
    "ಪದ್ಮಾ ಕಿರಣ ಶ್ವೇತಾ ಅರ್ಜುನ ಭಾರತಿ"
).split()
PLACES = (
    "ಬೆಂಗಳೂರು ಮೈಸೂರು ಮಂಗಳೂರು ಹುಬ್ಬಳ್ಳಿ ಧಾರವಾಡ ಬೆಳಗಾವಿ ಶಿವಮೊಗ್ಗ ತುಮಕೂರು ಉಡುಪಿ ಹಾಸನ ಮಂಡ್ಯ ಬಳ್ಳಾರಿ "
    "ಕಲಬುರಗಿ ದಾವಣಗೆರೆ ಕೋಲಾರ ಚಿತ್ರದುರ್ಗ ಬೀದರ ಕೊಡಗು"
).split()
THINGS = (
    "ಪುಸ್ತಕ ನೀರು ಹಾಲು ಅಕ್ಕಿ ಟಿಕೆಟ್ ಊಟ ಕಾಫಿ ಚಹಾ ಹಣ್ಣು ತರಕಾರಿ ಔಷಧಿ ಬಟ್ಟೆ ಸಕ್ಕರೆ ಫೋನ್ ಹೂವು ಕುರ್ಚಿ ಬಸ್ಸು ರೈಲು ಮನೆ ಕೆಲಸ"
).split()
DAYS = "ಸೋಮವಾರ ಮಂಗಳವಾರ ಬುಧವಾರ ಗುರುವಾರ ಶುಕ್ರವಾರ ಶನಿವಾರ ಭಾನುವಾರ ಇಂದು ನಾಳೆ ನಾಡಿದ್ದು".split()
TEMPLATES = (
    "ನಮಸ್ಕಾರ ನನ್ನ ಹೆಸರು {name}",
    "ನನ್ನ ಹೆಸರು {name} ನಾನು {place} ನಿಂದ ಮಾತನಾಡುತ್ತಿದ್ದೇನೆ",
    "ನನಗೆ {number} {thing} ಬೇಕು",
    "ದಯವಿಟ್ಟು {thing} ಕಳುಹಿಸಿ",
    "{day} {number} ಗಂಟೆಗೆ ಬನ್ನಿ",
    "{place} ಗೆ ಹೋಗುವ ಬಸ್ಸು ಎಷ್ಟು ಗಂಟೆಗೆ ಇದೆ",
    "{day} {place} ನಲ್ಲಿ ಮಳೆ ಬರುತ್ತದೆಯೇ",
    "ಇವತ್ತು ಹವಾಮಾನ ಹೇಗಿದೆ",
    "ನಿಮ್ಮ ಹೆಸರು ಏನು",
    "ಈಗ ಸಮಯ ಎಷ್ಟು",
    "ನನಗೆ ಕನ್ನಡ ಬರುತ್ತದೆ",
    "ನನಗೆ ಸ್ವಲ್ಪ ಸಹಾಯ ಬೇಕು",
    "ನನ್ನ ಖಾತೆಯಲ್ಲಿ ಎಷ್ಟು ಹಣ ಇದೆ",
    "ನನ್ನ ಖಾತೆಗೆ {number} ರೂಪಾಯಿ ಹಾಕಿ",
    "ಈ {thing} ಬೆಲೆ ಎಷ್ಟು",
    "ಈ {thing} ಬೆಲೆ {number} ರೂಪಾಯಿ",
    "{name} ಅವರಿಗೆ ಕರೆ ಮಾಡಿ",
    "{name} ಗೆ {day} ಸಂದೇಶ ಕಳುಹಿಸಿ",
    "ದಯವಿಟ್ಟು ಮತ್ತೊಮ್ಮೆ ಹೇಳಿ",
    "ನನಗೆ ಅರ್ಥವಾಗಲಿಲ್ಲ",
    "ಧನ್ಯವಾದಗಳು",
    "ಹೌದು ಸರಿ",
    "ಇಲ್ಲ ಬೇಡ",
    "ಹೌದು",
    "ಇಲ್ಲ",
    "ಸರಿ ಹಾಗೇ ಮಾಡಿ",
    "ಶುಭೋದಯ {name}",
    "ಶುಭ ರಾತ್ರಿ",
    "ನಾನು {day} {place} ಗೆ ಹೋಗುತ್ತೇನೆ",
    "ಅವರು {day} {place} ಯಿಂದ ಬರುತ್ತಾರೆ",
    "ಮನೆಯಲ್ಲಿ {number} ಜನ ಇದ್ದಾರೆ",
    "ನನ್ನ ಫೋನ್ ಸಂಖ್ಯೆ {digits}",
    "ನನ್ನ ಆದೇಶ ಸಂಖ್ಯೆ {digits}",
    "{thing} ಮತ್ತು {thing} ತೆಗೆದುಕೊಂಡು ಬಾ",
    "ಆಸ್ಪತ್ರೆ ಎಲ್ಲಿದೆ",
    "ಹತ್ತಿರದ {thing} ಅಂಗಡಿ ಎಲ್ಲಿದೆ",
    "{place} ಇಲ್ಲಿಂದ ಎಷ್ಟು ದೂರ",
    "{place} ಇಲ್ಲಿಂದ {number} ಕಿಲೋಮೀಟರ್ ದೂರ ಇದೆ",
    "ಬೆಳಿಗ್ಗೆ {number} ಗಂಟೆಗೆ ಎಬ್ಬಿಸಿ",
    "ದೀಪ ಹಚ್ಚಿ ಬಾಗಿಲು ಮುಚ್ಚಿ",
    "ಹಾಡು ಹಾಕಿ ಧ್ವನಿ ಜಾಸ್ತಿ ಮಾಡಿ",
    "ನೀವು ಹೇಗಿದ್ದೀರಿ",
    "ನಾನು ಚೆನ್ನಾಗಿದ್ದೇನೆ",
    "ಮಕ್ಕಳು ಶಾಲೆಗೆ ಹೋದರು",
    "ಊಟ ಆಯಿತಾ {name}",
    "ನಾನು ಕೆಲಸ ಮಾಡುತ್ತಿದ್ದೇನೆ ನಂತರ ಕರೆ ಮಾಡುತ್ತೇನೆ",
)
DIGITS = "ಸೊನ್ನೆ ಒಂದು ಎರಡು ಮೂರು ನಾಲ್ಕು ಐದು ಆರು ಏಳು ಎಂಟು ಒಂಬತ್ತು".split()


def normalised(text: str) -> str:
    """Return text as the model writes it: NFC, no joiners, single spaces."""
    text = unicodedata.normalize("NFC", re.sub("[\u200c\u200d]", "", text))
    return " ".join(text.split())


def is_held_out(word: str) -> bool:
    """Say whether training must never hear this word: one in 25, by its letters."""
    return zlib.crc32(word.encode()) % 25 == 0


@dataclass(frozen=True, slots=True)
class KannadaText:
    """What sentences are made of. Without files: templates and numerals alone."""

    words: tuple[str, ...] = ()
    held_words: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    held_phrases: tuple[str, ...] = ()
    numbers: tuple[str, ...] = tuple(DIGITS)

    @classmethod
    def read(cls, folder: Path) -> KannadaText:
        """Read what `python -m training.kannada_text` wrote.

        Raises:
            FileNotFoundError: it has not been run.
        """
        if not (folder / "words.txt").exists():
            raise FileNotFoundError(
                f"{folder} holds no words.txt: run `python -m training.kannada_text` first"
            )
        words = (folder / "words.txt").read_text().split()
        phrases = (folder / "sentences.txt").read_text().splitlines()
        held = [any(is_held_out(w) for w in p.split()) for p in phrases]
        return cls(
            tuple(w for w in words if not is_held_out(w)),
            tuple(w for w in words if is_held_out(w)),
            tuple(p for p, h in zip(phrases, held, strict=True) if not h),
            tuple(p for p, h in zip(phrases, held, strict=True) if h),
            tuple((folder / "numbers.txt").read_text().splitlines()),
        )

    def sentence(self, r: random.Random, held_out: bool = False) -> str:
        """Draw one sentence of 1 to 16 words; held out ones hold words never trained on."""
        kind = r.random()
        phrases = self.held_phrases if held_out else self.phrases
        if phrases and kind < 0.35:
            return r.choice(phrases)
        if self.words and (held_out or kind < 0.75):
            said = r.choices(self.words, k=r.randint(1, 8))
            if held_out:
                said[r.randrange(len(said))] = r.choice(self.held_words)
            return " ".join(said)
        return r.choice(TEMPLATES).format(
            name=r.choice(NAMES),
            place=r.choice(PLACES),
            thing=r.choice(THINGS),
            day=r.choice(DAYS),
            number=r.choice(self.numbers),
            digits=" ".join(r.choices(DIGITS, k=r.randint(4, 10))),
        )


def prepare(folder: Path, root: Path, fetch: bool = True) -> None:
    """Fetch the packages and write the four files."""
    import indic_numtowords

    from training import debian_words

    if fetch:
        debian_words.fetch(PACKAGES, root)
    folder.mkdir(parents=True, exist_ok=True)
    listed = (normalised(w) for w in debian_words.aspell_words(root, "kn"))
    words = sorted({w for w in listed if WORD.fullmatch(w)})
    phrases = debian_words.translated_sentences(root, "kn", LETTER)
    r = random.Random(0)
    values = [*range(101), *(r.randrange(100, 100_000) for _ in range(3000))]
    numbers = [normalised(indic_numtowords.num2words(v, lang="kn")) for v in values]
    numbers = sorted({n for n in numbers if all(WORD.fullmatch(w) for w in n.split())})
    (folder / "words.txt").write_text("\n".join(words) + "\n")
    (folder / "sentences.txt").write_text("\n".join(phrases) + "\n")
    (folder / "numbers.txt").write_text("\n".join(numbers) + "\n")
    text = KannadaText.read(folder)
    corpus = [text.sentence(r) for _ in range(60_000)]
    train_tokens(corpus, folder / "tokens.model")
    print(f"{len(words)} words, {len(phrases)} phrases, {len(numbers)} numbers in {folder}")


def train_tokens(corpus: list[str], path: Path) -> None:
    """Write a SentencePiece model of 256 byte-pair pieces that spells every Kannada letter."""
    import sentencepiece

    letters = [chr(c) for c in range(0x0C80, 0x0D00) if re.fullmatch(LETTER, chr(c))]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_prefix=str(path.with_suffix("")),
        vocab_size=PIECES,
        model_type="bpe",
        character_coverage=1.0,
        required_chars="".join(letters),
        bos_id=-1,
        eos_id=-1,
        normalization_rule_name="identity",
        minloglevel=2,
        num_threads=1,
    )
    path.with_suffix(".vocab").unlink()


def main() -> None:
    """Fetch and write the Kannada text."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path(".data/kn"))
    parser.add_argument("--packages", type=Path, default=Path(".data/debian"))
    parser.add_argument("--unpacked", action="store_true", help="the packages are there already")
    args = parser.parse_args()
    prepare(args.out, args.packages, fetch=not args.unpacked)


if __name__ == "__main__":
    main()
