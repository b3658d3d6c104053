"""Speech for language identification: the same voices in every language, with their phones.

    eSpeak NG   English, Kannada, Hindi, Tamil, Telugu, Malayalam, Bengali, Marathi, Gujarati
    joe         a neural Piper voice, American; it is given every language's phonemes, the nearest
                that it knows, so that a voice never tells the language
    Kokoro      the same, with made-up speakers (`training.neural`)
    people      English: the human training clips

Shards are `training.aligned`'s, an utterance's voice `LANGUAGE/SOURCE/VOICE`, its text the phonemes
in IPA. eSpeak NG's have the time of each; the others' times are found in training.

    python -m training.lid_speech --fetch                       the text, into .data/lid-text
    python -m training.lid_speech --source espeak --minutes-each 60 --workers 4
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from training import aligned
from training.aligned import Mark, Spoken
from training.kannada_speech import HELD_OUT_VOICES, VOICES, AlignedEspeak, aligned_speech
from training.kannada_text import KannadaText, normalised
from training.voices import Espeak, to_16k, trimmed

INDIAN = {"hi": "hin", "ta": "tam", "te": "tel", "ml": "mal", "bn": "ben", "mr": "mar", "gu": "guj"}
LANGUAGES = ("en", "kn", *INDIAN)
ENGLISH_ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan")
PACKAGES = ("aspell", *(f"aspell-{language}" for language in INDIAN))
TRANSLATIONS = tuple(f"libreoffice-l10n-{language}" for language in INDIAN)
LETTERS = {
    "hi": "[\u0900-\u0963]",
    "mr": "[\u0900-\u0963]",
    "bn": "[\u0980-\u09e3]",
    "gu": "[\u0a80-\u0ae3]",
    "ta": "[\u0b80-\u0bd7]",
    "te": "[\u0c00-\u0c63]",
    "ml": "[\u0d00-\u0d63]",
}
SOURCES = ("espeak", "espeak-held-out", "joe", "kokoro", "people")
LINES = 8000  # of words, and at most as many phrases, of each language

# Phonemes of Indian languages that an American voice was never taught, and its nearest.
NEAREST = dict(
    zip("ʈɖɳɭɻɽrʂʋɲɦxχqaeoiuɨʊ", "tdnlɹɾɾʃvnhkkkɑɛɔɪʊɪʊ", strict=True),
    c="tʃ",
    ɟ="dʒ",
)

Sentence = Callable[[random.Random], str]
Say = Callable[[str, str, random.Random], tuple[np.ndarray, str, str, list[Mark] | None]]


def prepare(folder: Path, packages: Path) -> None:
    """Write `LL.txt` of every language but English and Kannada: words, phrases, numbers."""
    import indic_numtowords

    from training import debian_words

    debian_words.fetch((*PACKAGES, *TRANSLATIONS), packages)
    folder.mkdir(parents=True, exist_ok=True)
    for language in INDIAN:
        r = random.Random(language)
        listed = (normalised(w) for w in debian_words.aspell_words(packages, language))
        words = sorted(
            {w for w in listed if 2 <= len(w) <= 20 and not re.search(r"[\W\d_a-z]", _bare(w))}
        )
        phrases = debian_words.translated_sentences(packages, language, LETTERS[language])
        numbers = [
            str(indic_numtowords.num2words(r.randrange(10_000), lang=language)) for _ in range(300)
        ]
        lines = r.sample(words, min(LINES, len(words))) + numbers
        lines += r.sample(phrases, min(LINES, len(phrases)))
        (folder / f"{language}.txt").write_text("\n".join(lines) + "\n")
        print(f"{language}: {len(words)} words, {len(phrases)} phrases", flush=True)


def sentences(language: str, folder: Path, kannada: Path, english: Path) -> Sentence:
    """Return what draws a sentence of a language: a phrase, or 2 to 9 words."""
    if language == "kn":
        text = KannadaText.read(kannada)
        return text.sentence
    if language == "en":
        lines = [" ".join(line.lower().split()) for line in english.read_text().splitlines()]

        def excerpt(r: random.Random) -> str:
            words = r.choice(lines).split()
            count = r.randint(2, 12)
            start = r.randint(0, max(0, len(words) - count))
            return " ".join(words[start : start + count])

        return excerpt
    lines = (folder / f"{language}.txt").read_text().splitlines()
    words = [line for line in lines if " " not in line]
    phrases = [line for line in lines if " " in line]

    def draw(r: random.Random) -> str:
        if phrases and r.random() < 0.4:
            return r.choice(phrases)
        return " ".join(r.choices(words, k=r.randint(2, 9)))

    return draw


def _bare(word: str) -> str:
    """The word without vowel signs, which regular expressions do not count as letters."""
    return "".join(c for c in word if not unicodedata.category(c).startswith("M"))


def espeak_source(held_out: bool) -> Say:
    """Speak any language with eSpeak NG, in the training or the held-out variants."""
    engine = AlignedEspeak()
    variants = HELD_OUT_VOICES if held_out else VOICES

    def say(text: str, language: str, r: random.Random) -> tuple[np.ndarray, str, str, list[Mark]]:
        voice = r.choice(ENGLISH_ACCENTS) if language == "en" else language
        audio, name, marks = aligned_speech(engine, text, r, variants, voice)
        return audio, "".join(n for _, n in marks), f"espeak/{name.split('/')[1]}", marks

    return say


def foreign_phonemes(espeak: Espeak, text: str, language: str, known: set[str]) -> str:
    """Phonemes of any language in the symbols that a voice knows."""
    spoken = espeak.phonemes(text, "en-us" if language == "en" else language)
    spoken = re.sub(r"\([a-z-]+\)", "", spoken)  # eSpeak NG's marks of a change of language
    out = []
    for symbol in unicodedata.normalize("NFD", spoken):
        if symbol == "\u0303" and "n" in known:  # a nasal vowel
            out.append("n")
        elif symbol in known and not (language != "en" and symbol in NEAREST):
            out.append(symbol)
        else:
            out.append(NEAREST.get(symbol, ""))
    return "".join(out)


def joe_source(path: Path) -> Say:
    """The Piper voice "joe" (CC0) in every language."""
    import torch

    from training.neural import network

    espeak = Espeak()
    run = network(path, torch.device("cpu"))
    config = json.loads(Path(f"{path}.json").read_text())
    ids, rate = config["phoneme_id_map"], config["audio"]["sample_rate"]

    def say(text: str, language: str, r: random.Random) -> tuple[np.ndarray, str, str, None]:
        spoken = foreign_phonemes(espeak, text, language, set(ids))
        row = [*ids["^"], *(i for s in spoken for i in (*ids["_"], *ids[s])), *ids["_"], *ids["$"]]
        scales = [r.uniform(0.4, 0.9), r.uniform(0.75, 1.25), r.uniform(0.5, 1.0)]
        audio = run(
            input=torch.tensor([row]),
            input_lengths=torch.tensor([len(row)]),
            scales=torch.tensor(scales),
        )
        return trimmed(to_16k(np.nan_to_num(audio.numpy().ravel()), rate)), spoken, "joe/joe", None

    return say


def kokoro_source(folder: Path) -> Say:
    """Kokoro-82M with a made-up speaker for every utterance, in every language."""
    import torch

    from training.neural import Kokoro

    voice = Kokoro(folder, torch.device("cpu"))
    known = set(voice.vocab)

    def say(text: str, language: str, r: random.Random) -> tuple[np.ndarray, str, str, None]:
        spoken = foreign_phonemes(voice.espeak, text, language, known)
        tokens = [voice.vocab[c] for c in spoken][:400]
        style = torch.from_numpy(voice._style(len(tokens), r))
        speed = torch.tensor([r.uniform(0.8, 1.25)])
        audio = voice.network(tokens=torch.tensor([[0, *tokens, 0]]), style=style, speed=speed)
        wave = np.nan_to_num(audio.float().numpy().ravel())
        return trimmed(to_16k(wave, 24_000)), spoken, "kokoro/made-up", None

    return say


def people(manifest: Path) -> Iterator[Spoken]:
    """Yield the English human training clips; voice `en/human/SPEAKER`."""
    from training.human import human_clips

    espeak = Espeak()
    for audio, text, voice in human_clips(manifest):
        yield audio, espeak.phonemes(text, "en-us"), f"en/human/{voice}", None


def synthesise(
    say: Say, sentence: Sentence, language: str, seconds: float, seed: str
) -> Iterator[Spoken]:
    """Yield utterances of a language until there are so many seconds of them."""
    done, index = 0.0, 0
    while done < seconds:
        r = random.Random(f"{seed}/{language}/{index}")
        index += 1
        audio, spoken, voice, marks = say(sentence(r), language, r)
        if len(audio) >= 8000:
            done += len(audio) / 16_000
            yield audio, spoken, f"{language}/{voice}", marks


def _source(args: argparse.Namespace) -> Say:
    match args.source:
        case "espeak":
            return espeak_source(False)
        case "espeak-held-out":
            return espeak_source(True)
        case "joe":
            return joe_source(args.files)
        case _:
            return kokoro_source(args.files)


def _shard(job: tuple[argparse.Namespace, str, int, float]) -> float:
    args, language, number, seconds = job
    sentence = sentences(language, args.text, args.kannada, args.english)
    seed = f"{args.seed + zlib.crc32(args.source.encode())}/{number}"
    rows = synthesise(_source(args), sentence, language, seconds, seed)
    name = f"{number:03d}-{language}-{args.source}"
    return aligned.write(args.out, name, rows)


def main() -> None:
    """Write shards of one source, in all the languages that it speaks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(".data/lid"))
    parser.add_argument("--source", choices=SOURCES)
    parser.add_argument("--minutes-each", type=float, default=20.0)
    parser.add_argument("--shard-minutes", type=float, default=5.0)
    parser.add_argument("--languages", default=",".join(LANGUAGES))
    parser.add_argument("--packages", type=Path, default=Path(".data/debian"))
    parser.add_argument("--fetch", action="store_true", help="fetch the text and stop")
    parser.add_argument("--text", type=Path, default=Path(".data/lid-text"))
    parser.add_argument("--kannada", type=Path, default=Path(".data/kn"))
    parser.add_argument(
        "--english",
        type=Path,
        default=Path("../shared/speech/text/librispeech_train_clean_100.txt"),
    )
    parser.add_argument(
        "--people", type=Path, default=Path("../shared/speech/train/manifest.jsonl")
    )
    parser.add_argument("--files", type=Path, help="joe's .onnx, or Kokoro's folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    if args.fetch:
        return prepare(args.text, args.packages)
    if args.source is None:
        parser.error("--source says who speaks")
    if args.source == "people":
        print(f"people: {aligned.write(args.out, 'en-human', people(args.people)) / 60:.0f} min")
        return None
    shards = max(1, round(args.minutes_each / args.shard_minutes))
    seconds = 60 * args.minutes_each / shards
    jobs = [(args, c, n, seconds) for n in range(shards) for c in args.languages.split(",")]
    with multiprocessing.get_context("spawn").Pool(args.workers, maxtasksperchild=4) as pool:
        done = sum(pool.imap_unordered(_shard, jobs))
    print(f"{args.source}: {done / 60:.1f} min")
    return None


if __name__ == "__main__":
    main()
