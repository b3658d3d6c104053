"""Trains `tiny-en`, the small streaming English recogniser that ships with the package.

    python -m training.tiny_en --stage all --work out/tiny-en --speech ../shared/speech

Stages: `data` (human clips and synthetic voices into a pool), `train` (bound to wall time;
resumes), `export` (writes the `.nemo`), `eval` (word error rates on human speech), `all`.
`--smoke` does the whole with a toy shape and one voice in under a minute and fails unless the loss
falls and the export opens. With several GPUs, `train` may be started once on each of them, by
`torch.distributed.run`. On a CPU, preload tcmalloc: it halves the step.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import sentencepiece
import torch

from training.fastconformer import FastConformerRNNT, ModelShape
from training.nemo_file import write_nemo
from training.pool import Pool
from training.ranks import Ranks
from training.speech_text import Script, clean
from training.student import Recipe, Student
from training.trainer import Trainer

# People are less than half of what is played, to the end: more of them is learnt by heart.
SHARES = {
    "reading": 0.12,
    "splice": 0.13,
    "units": 0.12,
    "accent": 0.02,
    "orders": 0.04,
    "digits": 0.02,
    "kokoro": 0.44,
    "joe": 0.04,
    "pico": 0.02,
    "flite": 0.04,
    "espeak": 0.01,
}
# 1,024 tokens leave less room for words that do not exist. The predictor is as wide as the joint,
# because transformers has one width for both.
# Layers, width and heads are Whisper tiny.en's, half of whose feed-forward each half of one is, so
# that `training.graft` can begin from it.
SHAPE = ModelShape(
    d_model=384,
    n_layers=4,
    n_heads=6,
    ff_expansion_factor=2,
    subsampling_conv_channels=128,
    vocab_size=1024,
    pred_hidden=320,
    joint_hidden=320,
    dropout=0.05,
)
# What is told late wants frames to be told in, where a segment ends with its last word; and a small
# model is often in doubt, which decoding frame by frame does not know.
STREAMING = {"tail_frames": 4, "final_pass": "beam"}
SMOKE_SHAPE = ModelShape(
    d_model=32,
    n_layers=2,
    n_heads=2,
    subsampling_conv_channels=16,
    pred_hidden=32,
    joint_hidden=32,
    vocab_size=48,
)


def make_tokenizer(books: Path, size: int, path: Path) -> None:
    """Train the sentencepiece BPE on the books and write it to `path`."""
    lines = [c for line in books.read_text().splitlines() if (c := clean(line))]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=size,
        model_type="bpe",
        character_coverage=1.0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        unk_id=0,
        minloglevel=2,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.getvalue())


def make_data(args: argparse.Namespace, shards: int | None = None) -> None:
    """Fill the pool: the human clips, then synthetic speech from as many processes as asked."""
    pool, books = (
        args.work / "pool",
        args.books or args.speech / "text/librispeech_train_clean_100.txt",
    )
    make_tokenizer(books, args.shape.vocab_size, args.work / "tokenizer.model")
    if args.speech:
        from training.align import Aligner
        from training.human import human_clips
        from training.pool import write_shard
        from training.splice import write_spliced
        from training.units import write_units
        from training.voices import speller

        spell = speller() if args.align else None
        aligner = Aligner(spell=spell) if spell else None
        write_shard(pool, "human", human_clips(args.speech / "train/manifest.jsonl", aligner))
        if spell:
            write_spliced(pool, args.splice_hours, args.seed)
            script = Script.from_files(books, args.examples, args.seed)
            write_units(pool, args.splice_hours, args.seed, script, spell)
    workers = []
    for seed in range(args.workers):
        command = [sys.executable, "-m", "training.synthesise", "--voices", args.voices]
        command += ["--pool", str(pool), "--books", str(books), "--seed", str(args.seed + seed + 1)]
        command += ["--minutes", str(args.data_minutes), "--device", args.device]
        if args.examples:
            command += ["--examples", str(args.examples)]
        if args.files:
            command += ["--files", str(args.files)]
        if args.align:
            command += ["--align"]
        if shards is not None:
            command += ["--shards", str(shards)]
        workers.append(subprocess.Popen(command))
    if any([worker.wait() for worker in workers]):
        raise SystemExit("a synthesis worker failed; its message is above")


def train(args: argparse.Namespace, recipe: Recipe, max_steps: int | None = None) -> Trainer:
    """Train until the minutes are over (or `max_steps` are done) and return the trainer."""
    device = torch.device(args.device)
    ranks = Ranks(device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        # cuDNN's attention plans anew for every length, which takes longer than the attention.
        torch.backends.cuda.enable_cudnn_sdp(False)
    tokenizer = sentencepiece.SentencePieceProcessor(str(args.work / "tokenizer.model"))
    pool = Pool(args.work / "pool", tokenizer.encode, args.pool_hours, device)
    ear = None
    if args.teacher:
        from training.teacher import WhisperEar, read_ctranslate2

        weights = (
            dict(np.load(args.teacher))
            if args.teacher.suffix == ".npz"
            else read_ctranslate2(args.teacher)
        )
        ear = WhisperEar(weights, device)
    evaluate = None
    if ranks.first and args.speech and (args.speech / "dev").is_dir():
        from training.measure import Evaluator, read_manifest

        clips = read_manifest(args.speech / "dev/manifest.jsonl")
        evaluator = Evaluator(clips, tokenizer.decode, device)

        def evaluate(averaged: FastConformerRNNT, student: Student) -> dict[str, float]:
            return evaluator.rates(averaged) | (evaluator.by_ear(student, ear) if ear else {})

    trainer = Trainer(args.shape, recipe, pool, args.work / "run", device, ear, evaluate, ranks)
    if args.warm and trainer.step == 0:
        trainer.begin_from(args.warm)
    deadline = args.deadline or trainer.started + 60 * args.minutes
    trainer.run(deadline, evaluate_every_s=args.evaluate_every, max_steps=max_steps)
    ranks.leave()
    return trainer


def has_ears(warm: Path) -> bool:
    """Whether a run to go on from has taught its teacher's ears already (`TeacherEars`)."""
    return warm.suffix != ".nemo" and "ears.project.weight" in torch.load(
        warm, map_location="cpu", mmap=True, weights_only=True
    )


def load_averaged(args: argparse.Namespace) -> FastConformerRNNT:
    """Return the averaged weights of the run, or those of `--average`, or of `--warm` alone.

    Several of `--average` are averaged once more: moments of a run that did not come to its end
    are together nearer to it than each (arXiv 1803.05407).
    """
    model = FastConformerRNNT(args.shape).eval()
    path = args.work / "run/ema.pt"
    files = args.average or ([args.warm] if args.warm and not path.exists() else [])
    if not files:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return model
    saved = [torch.load(file, map_location="cpu", weights_only=True) for file in files]
    model.load_state_dict({
        name.removeprefix("model."): torch.stack([one[name].float() for one in saved]).mean(0)
        for name in saved[0]
        if name.startswith("model.")
    })  # fmt: skip
    return model


def export(args: argparse.Namespace) -> None:
    """Write the run's averaged weights as a `.nemo` file."""
    model = load_averaged(args)
    with torch.no_grad():
        model.joint.joint_net[2].bias[model.blank] += args.blank_bias
    tokenizer = (args.work / "tokenizer.model").read_bytes()
    write_nemo(args.out, model, tokenizer, STREAMING)
    print(f"{args.out}: {args.out.stat().st_size / 2**20:.2f} MiB")


def smoke(args: argparse.Namespace) -> None:
    """Run every stage at toy size; raise unless the loss falls and the export opens."""
    from training.synthesise import load_voice  # noqa: F401  (fails early if eSpeak NG is absent)

    args.shape, args.speech, args.voices, args.workers = SMOKE_SHAPE, None, "espeak", 1
    args.books = args.work / "books.txt"
    args.work.mkdir(parents=True, exist_ok=True)
    args.books.write_text(
        "the quick brown fox jumps over the lazy dog\nshe sells sea shells by the sea shore\n"
        "how much wood would a woodchuck chuck if a woodchuck could chuck wood\n"
        "peter piper picked a peck of pickled peppers\nwe have gone to visit the old mill\n"
    )
    args.device, args.teacher, args.deadline, args.pool_hours = "cpu", None, None, 0.1
    args.align, args.warm = False, None
    make_data(args, shards=2)
    recipe = Recipe(
        seconds_per_batch=20.0,
        learning_rate=6e-3,
        warmup_s=0.1,
        warmup_steps=10,
        shares={"espeak": 1.0},
        seed=args.seed,
        ema_decay=0.9,
        rnnt_from=0.0,
    )
    trainer = train(args, recipe, max_steps=110)
    rows = [json.loads(r) for r in (trainer.out / "log.jsonl").read_text().splitlines()]
    first = rows[0]["rnnt"]
    batches = trainer.pool.batches({"espeak": 1.0}, 10.0, trainer.rng, draw=40)
    losses = trainer.train_step(batches[0], progress=1.0)
    last = float(losses["rnnt"]) if losses else math.inf
    if not last < 0.5 * first:
        raise SystemExit(f"the loss did not fall: {first:.3f} at first, {last:.3f} at last")
    args.out = args.work / "smoke.nemo"
    export(args)
    from voice_agent.engine.checkpoint import read_nemo

    read_nemo(args.out)
    print(f"loss {first:.3f} -> {last:.3f}; {args.out} opens")


def arguments() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--stage", choices=["data", "train", "export", "eval", "all"], default="all"
    )
    parser.add_argument("--smoke", action="store_true", help="everything, at toy size, in a minute")
    parser.add_argument("--work", type=Path, default=Path("out/tiny-en"), help="pool, run, results")
    parser.add_argument("--speech", type=Path, help="folder of human speech: train/, dev/, text/")
    parser.add_argument("--books", type=Path, help="sentences to speak (default: speech/text)")
    parser.add_argument("--examples", type=Path, help="more sentences (see speech_text)")
    parser.add_argument("--voices", default="pico,flite,espeak", help="see training.synthesise")
    parser.add_argument("--files", type=Path, help="folder of neural voices' models")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--data-minutes", type=float, default=15.0, help="of synthesis")
    parser.add_argument(
        "--align",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="find what is said when, by forced alignment; needs PocketSphinx and Flite",
    )
    parser.add_argument(
        "--splice-hours",
        type=float,
        default=40.0,
        help="of new sentences out of human words, and of as many out of human phones",
    )
    parser.add_argument("--teacher", type=Path, help="Whisper tiny.en as CTranslate2 model.bin")
    parser.add_argument(
        "--warm",
        type=Path,
        help="begin from a run's small.pt or training.graft's .nemo; or export small.pt",
    )
    parser.add_argument(
        "--average", type=Path, nargs="+", help="small.pt files of a run whose mean is exported"
    )
    parser.add_argument(
        "--blank-bias",
        type=float,
        default=0.0,
        help="nats that the exported blank gets: below 0 for one that rather swallows words",
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="of training")
    parser.add_argument(
        "--deadline", type=float, help="seconds since the epoch, instead of minutes"
    )
    parser.add_argument("--evaluate-every", type=float, default=90.0, help="seconds")
    parser.add_argument("--pool-hours", type=float, default=300.0, help="most audio held")
    parser.add_argument("--batch-seconds", type=float, default=Recipe().seconds_per_batch)
    parser.add_argument(
        "--rate", type=float, default=Recipe().learning_rate, help="peak learning rate"
    )
    parser.add_argument(
        "--encoder-rate",
        type=float,
        default=Recipe().encoder_rate,
        help="share of the rate for the encoder: what it was begun from is worth keeping",
    )
    parser.add_argument(
        "--gentle",
        type=float,
        default=Recipe().gentle,
        help="0 to 1: less augmentation, for a run too short to need it",
    )
    parser.add_argument(
        "--rnnt-rows",
        type=float,
        default=Recipe().rnnt_rows,
        help="share of a batch that the transducer's loss is computed on",
    )
    parser.add_argument(
        "--views", type=int, choices=(1, 2), default=2, help="augmentations of each utterance"
    )
    parser.add_argument("--ema", type=float, default=Recipe().ema_decay, help="decay a step")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--graphs",
        action=argparse.BooleanOptionalAction,
        default=torch.cuda.is_available(),
        help="steps as CUDA graphs",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("voice_agent/models/tiny-en.nemo"))
    parser.add_argument("--layers", type=int, default=SHAPE.n_layers)
    parser.add_argument("--width", type=int, default=SHAPE.d_model, help="of the encoder")
    return parser


def main() -> None:
    """Read the command line and run the stages."""
    args = arguments().parse_args()
    args.shape = replace(SHAPE, n_layers=args.layers, d_model=args.width)
    if args.smoke:
        smoke(args)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    began = time.time()
    if args.stage in ("data", "all"):
        make_data(args)
    if args.stage in ("train", "all"):
        recipe = Recipe(
            seconds_per_batch=args.batch_seconds,
            learning_rate=args.rate,
            encoder_rate=args.encoder_rate,
            gentle=args.gentle,
            rnnt_rows=args.rnnt_rows,
            ema_decay=args.ema,
            graphs=args.graphs,
            views=args.views,
            shares=SHARES,
            seed=args.seed,
        )
        if args.warm:
            # What helps a network that knows nothing only costs one that does.
            recipe = replace(
                recipe,
                learning_rate=0.5 * args.rate,
                rnnt_from=0.0,
                consistency_from=0.0,
                gentle_part=0.02,
                short_part=0.0,
                small_part=0.0,
                phones_part=0.3,
                ears=(0.0, 0.01) if has_ears(args.warm) else recipe.ears,
            )
        train(args, recipe)
    if args.stage in ("export", "all"):
        export(args)
    if args.stage in ("eval", "all"):
        from training.tiny_en_card import evaluate

        evaluate(args.out, args.speech / "dev/manifest.jsonl", args.work / "eval.json")
    print(f"done in {(time.time() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
