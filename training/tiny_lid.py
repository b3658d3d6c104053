"""Train, export and measure `tiny-lid`: English, Kannada or other, from half a second of speech.

    python -m training.tiny_lid                  train on the shards of .data/lid, export, measure
    python -m training.tiny_lid --train-only …   leave `lid.pt` under --out and stop
    python -m training.tiny_lid --export FILE    export what training left and measure it
    python -m training.tiny_lid --measure FILE   measure an exported file
    python -m training.tiny_lid --smoke          a minute: the loss falls, the export opens

Make the shards first or meanwhile (`python -m training.lid_speech`, once a source). The only people
among them speak English, so "a person" could pass for "English"; `training.lid_net` and
`training.lid_train` say what is done against that.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from training import aligned, lid_data, lid_train
from training.aligned import Spoken
from training.augment import Strength
from training.lid_net import CLASSES, NAMED, LidNet

MODEL = Path("voice_agent/models/tiny-lid.onnx")
PRIOR = {"en": 0.5, "kn": 0.25, "other": 0.25}
# Chosen on the dev clips: natural speech surprises the network more than held-out voices do, and
# natural Kannada is under-rated.
COOLEST = 1.5  # temperature, at least
LEAN = {"en": 0.2, "kn": 0.4, "other": -0.8}


def made_noise(seconds: float, seed: int) -> list[Spoken]:
    """Silence, coloured noise, hum, clicks and simple music: what is no language."""
    rng = np.random.default_rng(seed)
    rows: list[Spoken] = []
    while sum(len(a) for a, *_ in rows) < seconds * 16_000:
        n = int(rng.uniform(2, 6) * 16_000)
        kind = rng.integers(4)
        time_s = np.arange(n) / 16_000
        if kind == 0:
            spectrum = np.fft.rfft(rng.standard_normal(n))
            spectrum /= np.maximum(np.arange(len(spectrum)), 1.0) ** rng.uniform(0, 1.3)
            wave = np.fft.irfft(spectrum, n)
        elif kind == 1:
            wave = 0.02 * rng.standard_normal(n)
            for at in rng.integers(0, n - 800, rng.integers(1, 12)):
                wave[at : at + 800] += rng.standard_normal(800) * np.exp(-np.arange(800) / 100)
        elif kind == 2:
            hum = rng.choice([50.0, 60.0, 100.0, 440.0, 1000.0])
            wave = sum(np.sin(2 * np.pi * hum * k * time_s) / k**1.5 for k in range(1, 8))
            wave = wave + 0.05 * rng.standard_normal(n)
        else:
            wave = _music(n, rng)
        wave = 12_000 * wave / max(float(np.abs(wave).max()), 1e-9)
        rows.append((wave.astype(np.int16), "", "noise/made/noise", []))
    return rows


def _music(n: int, rng: np.random.Generator) -> np.ndarray:
    """Chords of decaying harmonic tones on a scale, at a steady beat, with or without a drum."""
    wave = np.zeros(n)
    beat = int(16_000 * rng.uniform(0.15, 0.6))
    scale = 220.0 * 2 ** (rng.choice([[0, 2, 4, 7, 9], [0, 3, 5, 7, 10]]) / 12)
    bright, decay = rng.uniform(0.8, 2.0), rng.uniform(0.1, 0.8)
    drum = rng.random() < 0.5
    for at in range(0, n, beat):
        length = min(n - at, 4 * beat)
        time_s = np.arange(length) / 16_000
        for note in rng.choice(scale, rng.integers(1, 4)) * 2.0 ** rng.integers(-1, 3):
            tone = sum(np.sin(2 * np.pi * note * k * time_s) / k**bright for k in range(1, 9))
            wave[at : at + length] += tone * np.exp(-time_s / decay)
        if drum and length > 1600:
            wave[at : at + 1600] += 2 * rng.standard_normal(1600) * np.exp(-np.arange(1600) / 300)
    return wave


def fit(args: argparse.Namespace) -> Path:
    """Train on the shards that are there and those still to come; return `lid.pt`."""
    began = time.monotonic()
    device = torch.device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.noise_minutes and not (args.data / "noise-made.npz").exists():
        aligned.write(args.data, "noise-made", made_noise(60 * args.noise_minutes, args.seed))
    store = lid_data.Languages(args.data, args.hours, device)
    held_out = lid_data.Languages(args.held_out, 1.0, device)
    held_out.refresh(1000)
    store.refresh(1000)
    while not {"en", "kn", "hi", "ta"} <= {language for language, _ in store.groups}:
        if time.monotonic() - began > 240:
            raise SystemExit(f"{args.data} lacks languages: run `python -m training.lid_speech`")
        time.sleep(0.5)
        store.refresh(1000)
    recipe = lid_train.Recipe(
        batch=args.batch, free=args.free, share=args.share, voices=args.voices, seed=args.seed
    )

    def progress(step: int) -> float:
        return step / args.steps if args.steps else (time.monotonic() - began) / (60 * args.minutes)

    lid_train.train(recipe, store, progress, args.out / "lid.pt", held_out, args.report_s)
    print(json.dumps(store.minutes()), flush=True)
    return args.out / "lid.pt"


@torch.no_grad()
def temperature(net: LidNet, store: lid_data.Languages, seed: int) -> float:
    """The temperature that makes posteriors of held-out voices, in noise, likeliest."""
    rng = np.random.default_rng(seed + 1)
    batches = [
        lid_data.batch_of(store, 64, s, rng, Strength()) for s in (0.5, 1.0, 2.0) for _ in range(5)
    ]
    scored = [(net(batch.mel), batch.classes) for batch in batches]
    values = np.linspace(0.6, 2.5, 39)
    cost = [sum(float(lid_train.loss_of(x / t, c)) for x, c in scored) for t in values]
    return float(values[int(np.argmin(cost))])


def leaning(net: LidNet, heat: float, lean: dict[str, float]) -> LidNet:
    """A copy of the network whose calibrated log-posteriors are moved by `lean`, in nats."""
    net = copy.deepcopy(net)
    moved = [lean[c] if c in NAMED else lean["other"] for c in CLASSES]
    with torch.no_grad():
        net.out.bias += heat * torch.tensor(moved)
    return net


def export(net: LidNet, path: Path, heat: float) -> None:
    """Write the network as one ONNX file, half-precision weights, facts in its metadata."""
    import onnx

    from training.indic_export import Graph, export_graph, store_weights

    path.parent.mkdir(parents=True, exist_ok=True)
    axes = {"features": {0: "batch", 2: "frames"}, "logits": {0: "batch"}}
    graph = Graph(net, {"features": torch.randn(1, 64, 100)}, ["logits"], axes)
    export_graph(graph, path)
    store_weights(path, half=True, external=False)
    model = onnx.load(str(path))
    facts = {
        "classes": [c if c in NAMED else "other" for c in CLASSES],
        "taught": list(CLASSES),
        "temperature": heat,
        "prior": PRIOR,
    }
    model.metadata_props.add(key="tiny-lid", value=json.dumps(facts))
    onnx.save_model(model, str(path))
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB, temperature {heat:.2f}")


def smoke() -> None:
    """Train for seconds on a sentence a language; fail unless it learns and opens."""
    from training.lid_speech import espeak_source, synthesise
    from training.tiny_lid_measure import clip_scores
    from voice_agent.engine.lid.tiny import TinyIdentifier

    lines = {
        "en": "what time does the train leave",
        "kn": "ನಮಸ್ಕಾರ ನನ್ನ ಹೆಸರು ರವಿ",
        "hi": "आप कैसे हैं मेरा नाम राम है",
    }
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        say = espeak_source(False)
        for language, line in lines.items():
            rows = synthesise(say, lambda r, line=line: line, language, 30.0, "smoke")
            aligned.write(folder, f"{language}-espeak", rows)
        aligned.write(folder, "noise", made_noise(20, 0))
        store = lid_data.Languages(folder, 0.1, torch.device("cpu"))
        store.refresh(10)
        recipe = lid_train.Recipe(batch=24, width=64, ema_decay=0.9)
        net, log = lid_train.train(recipe, store, lambda step: step / 50, report_s=0.0)
        first = {k: float(np.mean([line[k] for line in log[:5]])) for k in ("loss", "naming")}
        last = {k: float(np.mean([line[k] for line in log[-5:]])) for k in ("loss", "naming")}
        if not (last["loss"] < 0.8 * first["loss"] and last["naming"] < 0.8 * first["naming"]):
            raise SystemExit(f"smoke: the loss did not fall ({first} to {last})")
        export(net, folder / "lid.onnx", 1.0)
        scores = clip_scores(TinyIdentifier(folder / "lid.onnx"), made_noise(3, 1)[0][0])
        print(f"smoke: loss {first} to {last}; the export opens: {scores}")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--data", type=Path, default=Path(".data/lid"))
    parser.add_argument("--held-out", type=Path, default=Path(".data/lid-held"))
    parser.add_argument("--human", type=Path, default=Path("../shared/speech/dev/manifest.jsonl"))
    parser.add_argument("--hours", type=float, default=8.0, help="of speech to make room for")
    parser.add_argument("--noise-minutes", type=float, default=15.0)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--steps", type=int, help="train this many steps, whatever the clock says")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--free", type=int, default=0, help="channels that go around the phones")
    parser.add_argument("--share", type=float, default=0.2, help="of the gradient, to the ear")
    parser.add_argument("--voices", type=float, default=0.35, help="share in people's voices")
    parser.add_argument("--report-s", type=float, default=15.0)
    parser.add_argument("--out", type=Path, default=Path("out/tiny-lid"))
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--export", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--measure", type=Path, metavar="FILE")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.smoke:
        return smoke()
    if not args.measure:
        checkpoint = args.export or fit(args)
        if args.train_only:
            return None
        net, _ = lid_train.load(checkpoint)
        held_out = lid_data.Languages(args.held_out, 1.0, torch.device("cpu"))
        held_out.refresh(1000)
        heat = max(COOLEST, temperature(net, held_out, args.seed))
        export(leaning(net, heat, LEAN), args.model, heat)
    from training.tiny_lid_measure import measure

    measure(args.measure or args.model, args.held_out, args.human, args.seed)
    return None


if __name__ == "__main__":
    main()
