"""Speech for language identification: the same voices in every language.

    eSpeak NG   English, Kannada, Hindi, Tamil, Telugu, Malayalam, Bengali, Marathi, Gujarati
    joe         a neural Piper voice, American; it is given every language's phonemes, the nearest
                that it knows, so that a voice never tells the language
    Kokoro      the same, with made-up speakers (`training.neural`)
    Pico        English
    people      English: the human training clips

A shard (`training.pool`) is named LANGUAGE-SOURCE-N and every utterance's voice
`LANGUAGE/SOURCE/VOICE`. Text is word lists of Debian's aspell packages, numbers in words
(indic-numtowords), English lines of a file, and `training.kannada_text`.

    python -m training.lid_speech --out .data/lid --source espeak --minutes-each 30
"""

from __future__ import annotations

import argparse
import json
import random
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from training import debian_words
from training.kannada_speech import HELD_OUT_VOICES, VOICES, speak
from training.kannada_text import KannadaText, normalised
from training.pool import write_shard
from training.voices import Espeak, to_16k, trimmed

INDIAN = {"hi": "hin", "ta": "tam", "te": "tel", "ml": "mal", "bn": "ben", "mr": "mar", "gu": "guj"}
LANGUAGES = ("en", "kn", *INDIAN)
ENGLISH_ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan")
PACKAGES = ("aspell", *(f"aspell-{language}" for language in INDIAN))

# Phonemes of Indian languages that an American voice was never taught, and its nearest.
NEAREST = dict(
    zip("ʈɖɳɭɻɽrʂʋɲɦxχqaeoiuɨʊ", "tdnlɹɾɾʃvnhkkkɑɛɔɪʊɪʊ", strict=True),
    c="tʃ",
    ɟ="dʒ",
)

Sentence = Callable[[random.Random], str]


def sentences(language: str, packages: Path, kannada: Path, english: Path) -> Sentence:
    """Return what draws a sentence of a language: 2 to 9 words."""
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
    import indic_numtowords

    listed = (normalised(w) for w in debian_words.aspell_words(packages, language))
    words = sorted(
        {w for w in listed if 2 <= len(w) <= 20 and not re.search(r"[\W\d_a-z]", _bare(w))}
    )

    def draw(r: random.Random) -> str:
        if r.random() < 0.15:
            return str(indic_numtowords.num2words(r.randrange(10_000), lang=language))
        return " ".join(r.choices(words, k=r.randint(2, 9)))

    return draw


def _bare(word: str) -> str:
    """The word without vowel signs, which regular expressions do not count as letters."""
    return "".join(c for c in word if not unicodedata.category(c).startswith("M"))


def espeak_source(held_out: bool) -> Callable[[str, str, random.Random], tuple[np.ndarray, str]]:
    """Speak any language with eSpeak NG, in the training or the held-out variants."""
    engine = Espeak()
    variants = HELD_OUT_VOICES if held_out else VOICES

    def say(text: str, language: str, r: random.Random) -> tuple[np.ndarray, str]:
        voice = r.choice(ENGLISH_ACCENTS) if language == "en" else language
        audio, name = speak(engine, text, r, variants, voice)
        return audio, f"espeak/{name.split('/')[1]}"

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


def joe_source(path: Path) -> Callable[[str, str, random.Random], tuple[np.ndarray, str]]:
    """The Piper voice "joe" (CC0) in every language."""
    import torch

    from training.neural import network

    espeak = Espeak()
    run = network(path, torch.device("cpu"))
    config = json.loads(Path(f"{path}.json").read_text())
    ids, rate = config["phoneme_id_map"], config["audio"]["sample_rate"]

    def say(text: str, language: str, r: random.Random) -> tuple[np.ndarray, str]:
        spoken = foreign_phonemes(espeak, text, language, set(ids))
        row = [*ids["^"], *(i for s in spoken for i in (*ids["_"], *ids[s])), *ids["_"], *ids["$"]]
        scales = [r.uniform(0.4, 0.9), r.uniform(0.75, 1.25), r.uniform(0.5, 1.0)]
        audio = run(
            input=torch.tensor([row]),
            input_lengths=torch.tensor([len(row)]),
            scales=torch.tensor(scales),
        )
        return trimmed(to_16k(np.nan_to_num(audio.numpy().ravel()), rate)), "joe/joe"

    return say


def kokoro_source(folder: Path) -> Callable[[str, str, random.Random], tuple[np.ndarray, str]]:
    """Kokoro-82M with a made-up speaker for every utterance, in every language."""
    import torch

    from training.neural import Kokoro

    voice = Kokoro(folder, torch.device("cpu"))
    known = set(voice.vocab)

    def say(text: str, language: str, r: random.Random) -> tuple[np.ndarray, str]:
        spoken = foreign_phonemes(voice.espeak, text, language, known)
        tokens = [voice.vocab[c] for c in spoken][:400]
        style = torch.from_numpy(voice._style(len(tokens), r))
        speed = torch.tensor([r.uniform(0.8, 1.25)])
        audio = voice.network(tokens=torch.tensor([[0, *tokens, 0]]), style=style, speed=speed)
        wave = np.nan_to_num(audio.float().numpy().ravel())
        return trimmed(to_16k(wave, 24_000)), "kokoro/made-up"

    return say


def pico_source() -> Callable[[str, str, random.Random], tuple[np.ndarray, str]]:
    """SVOX Pico: English alone."""
    from training.voices import pico

    voice = pico()

    def say(text: str, language: str, r: random.Random) -> tuple[np.ndarray, str]:
        return voice(text, r)

    return say


def people(manifest: Path) -> Iterator[tuple[np.ndarray, str, str]]:
    """Yield the English human training clips; voice `en/human/SPEAKER`."""
    from training.human import human_clips

    for audio, text, voice in human_clips(manifest):
        yield audio, text, f"en/human/{voice}"


def synthesise(
    say: Callable[[str, str, random.Random], tuple[np.ndarray, str]],
    sentence: Sentence,
    language: str,
    seconds: float,
    seed: int,
) -> Iterator[tuple[np.ndarray, str, str]]:
    """Yield utterances of a language until there are so many seconds of them."""
    done, index = 0.0, 0
    while done < seconds:
        r = random.Random(f"{seed}/{language}/{index}")
        index += 1
        text = sentence(r)
        audio, voice = say(text, language, r)
        if len(audio) >= 8000:
            done += len(audio) / 16_000
            yield audio, text, f"{language}/{voice}"


def main() -> None:
    """Write shards of one source, in all the languages that it speaks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--source",
        required=True,
        choices=["espeak", "espeak-held-out", "joe", "kokoro", "pico", "people"],
    )
    parser.add_argument("--minutes-each", type=float, default=20.0)
    parser.add_argument("--languages", default=",".join(LANGUAGES))
    parser.add_argument("--packages", type=Path, default=Path(".data/debian"))
    parser.add_argument("--fetch", action="store_true", help="download the word lists first")
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
    args = parser.parse_args()
    if args.fetch:
        debian_words.fetch(PACKAGES, args.packages)
    if args.source == "people":
        print(f"people: {write_shard(args.out, 'en-human', people(args.people)) / 60:.0f} min")
        return
    make = {
        "espeak": lambda: espeak_source(False),
        "espeak-held-out": lambda: espeak_source(True),
        "joe": lambda: joe_source(args.files),
        "kokoro": lambda: kokoro_source(args.files),
        "pico": pico_source,
    }
    say = make[args.source]()
    for language in args.languages.split(","):
        sentence = sentences(language, args.packages, args.kannada, args.english)
        seed = args.seed + zlib.crc32(args.source.encode())
        rows = synthesise(say, sentence, language, 60 * args.minutes_each, seed)
        seconds = write_shard(args.out, f"{language}-{args.source}", rows)
        print(f"{language} {args.source}: {seconds / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
