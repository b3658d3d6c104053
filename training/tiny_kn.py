"""Train, export and measure `tiny-kn`, a small Kannada recogniser in IndicConformer's layout.

    python -m training.tiny_kn                    everything: text, speech, training, export, CER
    python -m training.tiny_kn --train-only …     leave `checkpoint.pt` under --out and stop
    python -m training.tiny_kn --export FILE      export a checkpoint and measure it
    python -m training.tiny_kn --measure DIR      measure an exported folder
    python -m training.tiny_kn --smoke            a minute: the loss falls, the export opens

All speech is eSpeak NG's: the model shows that the path works, and hears people badly. Text,
voice, rate and pitch of every utterance follow from the seed; eSpeak NG adds jitter of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import torch

from training import aligned, kannada_speech, kannada_train
from training.kannada_text import KannadaText, normalised, train_tokens

MODEL = Path("voice_agent/models/tiny-kn")
MEAN_UTTERANCE_S = 3.4  # of `KannadaText.sentence` in eSpeak NG's voices
HELD_OUT = 400


def tokenizer(path: Path) -> object:
    """Open a SentencePiece model."""
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def fit(args: argparse.Namespace, text: KannadaText, tokens: object, scratch: Path) -> Path:
    """Speak and train; return the checkpoint."""
    began = time.monotonic()
    device = torch.device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    count = int(args.hours * 3600 / MEAN_UTTERANCE_S)
    source = None if args.smoke else args.data
    work = kannada_speech.fill(
        scratch / "train", source, args.seed, count, args.workers, 40 if args.smoke else 300
    )
    count = 30 if args.smoke else 150
    held = kannada_speech.utterances(text, args.seed, range(count), held_out=True)
    aligned.write(scratch / "held", "0", held)
    encode = tokens.encode  # type: ignore[attr-defined]
    speech = kannada_train.Speech(scratch / "train", encode, args.hours * 1.3, device)
    held_out = kannada_train.Speech(scratch / "held", encode, 1.0, device, speech.names)
    held_out.refresh()
    while speech.refresh() + len(speech) == 0:
        if work.ready():
            work.get()  # raises what a worker raised
        time.sleep(0.2)
    config = kannada_train.SMOKE if args.smoke else kannada_train.TINY_KN
    recipe = kannada_train.Recipe(
        seed=args.seed,
        learning_rate=args.rate,
        seconds_per_batch=args.batch_s or (500.0 if device.type == "cuda" else 25.0),
        ema_decay=0.9 if args.smoke else 0.998,
    )
    limit = args.minutes * 60.0

    def progress(step: int) -> float:
        if args.steps:
            return step / args.steps
        return (time.monotonic() - began) / limit

    # The held-out loss costs a CPU half a minute.
    report_s = 60.0 if args.smoke else 15.0 if device.type == "cuda" else 300.0
    log = kannada_train.train(
        config, recipe, speech, args.out, progress, held_out, report_s, args.begin
    )
    (args.out / "log.json").write_text(json.dumps(log, indent=1) + "\n")
    print(f"{speech.hours():.1f} h of speech, {log[-1]['step']} steps, checkpoint in {args.out}")
    return args.out / "checkpoint.pt"


def export(checkpoint: Path, tokens: object, folder: Path) -> None:
    """Write the checkpoint in IndicConformer's layout, Kannada alone, weights in half precision."""
    from training.indic_export import CtcParts, write_layout

    model, _ = kannada_train.load(checkpoint)
    pieces = [tokens.id_to_piece(i) for i in range(tokens.get_piece_size())]  # type: ignore[attr-defined]
    parts = CtcParts(model.features, model.encoder, model.ctc)
    write_layout(folder, parts, {"kn": pieces}, half=True, external=False)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    print(f"{folder}: {size / 2**20:.2f} MiB")


def measure(folder: Path, text: KannadaText, seed: int, count: int, dev: Path) -> None:
    """Print what the model card quotes: error rates, speed, and what it hears in natural voices.

    Args:
        folder: an exported model.
        text: where held-out sentences come from.
        seed: of the training; the measured sentences are others.
        count: utterances.
        dev: manifest of the natural clips; their Kannada has no transcripts, so no rate either.
    """
    import jiwer

    from training.indic_measure import transcripts

    for label, held_out in (("unheard words, unheard voices", True), ("known words", False)):
        rows = list(kannada_speech.utterances(text, seed + 1, range(count), held_out))
        began = time.process_time()
        heard = transcripts(folder, [audio for audio, *_ in rows], "kn")
        took = time.process_time() - began
        said = [normalised(sentence) for _, sentence, _, _ in rows]
        seconds = sum(len(a) for a, *_ in rows) / 16_000
        cer, wer = 100 * jiwer.cer(said, heard), 100 * jiwer.wer(said, heard)
        print(
            f"{label}: CER {cer:.2f} %, WER {wer:.2f} % of {len(rows)} clips, {seconds:.0f} s; "
            f"{1000 * took / seconds:.1f} ms of CPU time a second of audio, loading included"
        )
        for s, h in list(zip(said, heard, strict=True))[:3]:
            print(f"  said  {s}\n  heard {h}")
    if not dev.exists():
        print(f"no natural Kannada: {dev} is absent")
        return
    import soundfile

    for line in dev.read_text().splitlines():
        row = json.loads(line)
        if row["lang"] == "kn":
            audio, _ = soundfile.read(dev.parent / row["audio"], dtype="float32")
            print(f"{row['audio']} ({row['source']}): {transcripts(folder, [audio], 'kn')[0]}")


def smoke(args: argparse.Namespace) -> None:
    """Train for seconds on templates; fail unless the loss falls and the export opens."""
    from training.indic_measure import transcripts

    args.out = Path(tempfile.mkdtemp(prefix="tiny-kn-"))
    text = KannadaText()
    try:
        import random

        r = random.Random(args.seed)
        lines = [text.sentence(r) for _ in range(400)] + all_letters()
        train_tokens(lines * 3, args.out / "tokens.model")
        tokens = tokenizer(args.out / "tokens.model")
        checkpoint = fit(args, text, tokens, args.out / "scratch")
        log = json.loads((args.out / "log.json").read_text())
        first, last = log[0]["held_out_loss"], log[-1]["held_out_loss"]
        if not last < 0.6 * first:
            raise SystemExit(f"smoke: the held-out loss did not fall ({first} to {last})")
        export(checkpoint, tokens, args.out / "model")
        audio = [a for a, *_ in kannada_speech.utterances(text, 1, range(2))]
        heard = transcripts(args.out / "model", audio, "kn")
        print(f"smoke: loss {first} to {last}; the export opens and answers {heard}")
    finally:
        shutil.rmtree(args.out)


def all_letters() -> list[str]:
    """Sentences with every pair of consonant and vowel sign, so that 256 pieces can be found."""
    consonants = [chr(c) for c in range(0x0C95, 0x0CB9) if chr(c).isalpha() and c != 0x0CB4]
    signs = ["", *(chr(c) for c in range(0x0CBE, 0x0CC4))]
    return [" ".join(c + s + d for d in consonants[:12]) for c in consonants for s in signs]


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--minutes", type=float, default=45.0, help="of speaking and training")
    parser.add_argument("--begin", type=Path, metavar="CHECKPOINT", help="train it further")
    parser.add_argument("--rate", type=float, default=2e-3, help="the highest learning rate")
    parser.add_argument("--steps", type=int, help="train this many steps, whatever the clock says")
    parser.add_argument("--hours", type=float, default=20.0, help="of speech to make")
    parser.add_argument("--batch-s", type=float, help="seconds of audio in a batch")
    parser.add_argument("--out", type=Path, default=Path("out/tiny-kn"))
    parser.add_argument("--data", type=Path, default=Path(".data/kn"), help="the Kannada text")
    parser.add_argument("--model", type=Path, default=MODEL, help="where the export goes")
    parser.add_argument("--dev", type=Path, default=Path("../shared/speech/dev/manifest.jsonl"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that speak")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU")
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--export", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--measure", type=Path, metavar="DIR")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.hours, args.steps, args.batch_s = 0.1, args.steps or 40, 12.0
        return smoke(args)
    text = KannadaText.read(args.data)
    tokens = tokenizer(args.data / "tokens.model")
    if not args.measure:
        checkpoint = args.export
        if checkpoint is None:
            with tempfile.TemporaryDirectory(prefix="tiny-kn-") as scratch:
                checkpoint = fit(args, text, tokens, Path(scratch))
        if args.train_only:
            return None
        export(checkpoint, tokens, args.model)
    measure(args.measure or args.model, text, args.seed, HELD_OUT, args.dev)
    return None


if __name__ == "__main__":
    main()
