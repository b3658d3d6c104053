"""Brings the human training clips into the pool.

The clips are read through their `manifest.jsonl`: `audio`, `text`, `lang`. The group of a clip,
from the beginning of its file name, lets the recipe weigh broad reading against spoken orders.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from training.align import Aligner
from training.measure import plain
from training.pool import write_shard
from training.voices import speller

GROUPS = {
    "ls100": "reading",
    "lj": "reading",
    "pm": "accent",
    "pvcmd": "orders",
    "fsddseq": "digits",
}


def human_clips(manifest: Path, aligner: Aligner | None = None) -> Iterator[tuple]:
    """Yield (int16 audio, text, `group/speaker`) of every English clip with a transcript.

    With an aligner, its phones and words follow where the text fits the audio.
    """
    for line in manifest.read_text().splitlines():
        row = json.loads(line)
        if row["lang"] != "en" or not row.get("text"):
            continue
        audio, rate = soundfile.read(manifest.parent / row["audio"], dtype="float32")
        if rate != 16000:
            raise ValueError(f"{row['audio']} has {rate} samples a second, expected 16000")
        peak = float(np.abs(audio).max(initial=1e-6))
        group = GROUPS.get(row["audio"].split("_")[0], "reading")
        text = plain(row["text"])
        if text:
            scaled = np.round(audio * (16000.0 / peak)).astype(np.int16)
            found = (aligner(scaled, text) if aligner else None) or ()
            yield scaled, text, f"{group}/{row.get('speaker') or 'unknown'}", *found


def main() -> None:
    """Read the command line and write one shard."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--align", action="store_true", help="find what is said when")
    args = parser.parse_args()
    aligner = Aligner(spell=speller()) if args.align else None
    seconds = write_shard(args.pool, "human", human_clips(args.manifest, aligner))
    print(f"human speech: {seconds / 3600:.2f} h")


if __name__ == "__main__":
    main()
