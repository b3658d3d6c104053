"""Fills a pool with synthetic speech, shard after shard, until told to stop.

    python -m training.synthesise --voices pico,flite --pool DIR --books FILE --seed 1 --minutes 10

Several of these may fill one pool; each must have its own seed. The seed fixes text, voices, pitch
and rate; how much is made depends on the machine, unless `--shards` fixes that too. Kokoro speaks
in batches, so that a GPU has something to do; a third of the seeds give it a British accent.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from training import voices
from training.align import Aligner
from training.pool import write_shard
from training.speech_text import Script


def flite_folder(files: Path | None) -> Path | None:
    """Where Flite's libraries are: `files/flite`, with what they stand on, or the system."""
    folder = files / "flite" if files and (files / "flite").is_dir() else None
    if folder:
        ctypes.CDLL(str(folder / "libasound.so.2"), mode=ctypes.RTLD_GLOBAL)
    return folder


@cache
def load_speller(files: Path | None) -> Callable[[str], list[str]]:
    """Flite, which says any word."""
    return voices.speller(flite_folder(files))


@cache
def load_aligner(files: Path | None) -> Aligner:
    """This process's aligner; words that its dictionary lacks are spelt by Flite."""
    return Aligner(spell=load_speller(files))


def load_voice(name: str, files: Path | None, device: str) -> object:
    """Return the `(text, random) -> (audio, voice)` or `(audio, voice, phones)` of this name.

    Args:
        name: `pico`, `flite`, `espeak` or `joe`.
        files: folder with what pip does not install: `kokoro/`, `joe.onnx`, `flite/` (shared
            libraries; absent means the system's own).
        device: where the neural voices run.
    """
    if name == "pico":
        return voices.pico()
    if name == "flite":
        return voices.flite(flite_folder(files))
    if name == "espeak":
        return voices.Espeak()
    if name != "joe":
        raise ValueError(f"no voice {name!r}; there are pico, flite, espeak, kokoro and joe")
    if files is None:
        raise ValueError(f"the voice {name} needs --files, the folder of its model")
    from training import neural

    return neural.Joe(files / "joe.onnx", _device(device, share=0.05))


def _device(name: str, share: float) -> object:
    import torch

    torch.set_num_threads(1)
    if name == "cuda":
        # Every utterance has its own sizes: without a limit the allocator's cache grows and grows.
        torch.cuda.set_per_process_memory_fraction(share)
        torch.backends.cuda.matmul.allow_tf32 = True
    return torch.device(name)


def utterances(
    name: str, script: Script, draw: random.Random, args: argparse.Namespace
) -> Iterator:
    """Return an endless source of (audio, text, voice[, phones]) of one voice."""
    if name == "kokoro":
        if args.files is None:
            raise ValueError("the voice kokoro needs --files, the folder of its model")
        from training.kokoro import KokoroBatch, spoken_lines

        accent = "en-us" if args.seed % 3 else "en-gb-x-rp"
        voice = KokoroBatch(args.files / "kokoro", _device(args.device, share=0.1), accent)
        # One draw gives some hours; without a GPU that would be days before the first shard.
        lines = 8000 if args.device == "cuda" else 40
        return spoken_lines(voice, script.line, draw, lines)
    return _one_by_one(load_voice(name, args.files, args.device), script, draw)


def _one_by_one(speak: object, script: Script, draw: random.Random) -> Iterator[tuple]:
    while True:
        text = script.line()
        audio, voice, *phones = speak(text, draw)  # type: ignore[operator]
        yield audio, text, voice, *phones


def main() -> None:
    """Read the command line and synthesise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--voices", required=True, help="comma-separated; repeat one for more of it"
    )
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--books", type=Path, required=True, help="sentences, one a line")
    parser.add_argument("--examples", type=Path, help="more sentences, one a line")
    parser.add_argument("--files", type=Path, help="folder of neural voices' models")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0, help="of wall time")
    parser.add_argument("--hours", type=float, default=1e9, help="stop after so much audio")
    parser.add_argument("--shards", type=int, default=10**9, help="stop after so many")
    parser.add_argument(
        "--align", action="store_true", help="find the phones of voices that do not tell them"
    )
    parser.add_argument("--shard-seconds", type=float, default=240.0)
    args = parser.parse_args()

    script = Script.from_files(args.books, args.examples, args.seed)
    draw = random.Random(args.seed + 10_000)
    names = args.voices.split(",")
    sources = {name: utterances(name, script, draw, args) for name in dict.fromkeys(names)}
    aligner = load_aligner(args.files) if args.align else None
    end, made = time.time() + 60 * args.minutes, 0.0
    for shard in range(args.shards):
        if time.time() > end or made > 3600 * args.hours:
            break
        rows: list[tuple] = []
        seconds, began = 0.0, time.time()
        # The first shards are small, so that training need not wait for them.
        goal = min(args.shard_seconds, 40.0 * (shard + 1))
        while seconds < goal and time.time() < end:
            audio, text, voice, *phones = next(sources[draw.choice(names)])
            if 3000 < len(audio) < 18 * 16000:
                if aligner and not phones and (found := aligner(audio, text)):
                    phones = [found[0]]
                rows.append((audio, text, voice, *phones))
                seconds += len(audio) / 16000
        if rows:
            made += write_shard(args.pool, f"{names[0]}-{args.seed}-{shard:04d}", rows)
            speed = seconds / max(1e-6, time.time() - began)
            print(
                f"{names} shard {shard}: {made / 3600:.2f} h, {speed:.1f} x real time", flush=True
            )


if __name__ == "__main__":
    main()
