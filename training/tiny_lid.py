"""Train, export and measure `tiny-lid`: English, Kannada or other, from half a second of speech.

    python -m training.tiny_lid                  train on the shards of .data/lid, export, measure
    python -m training.tiny_lid --measure FILE   measure an exported file
    python -m training.tiny_lid --smoke          a minute: the loss falls, the export opens

Make the shards first (`python -m training.lid_speech`, once a source). The only people among
them speak English, so "a person" could pass for "English". Against that: a neural voice and made-up
speakers speak every language, every use of an utterance goes through another room, line and noise,
and a second head that tries to tell people's English from synthetic English is trained against.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.augment import Strength, degrade, mask_features
from training.lid_net import CLASSES, NAMED, LidNet, log_mel_batch
from training.pool import write_shard

MODEL = Path("voice_agent/models/tiny-lid.onnx")
LENGTHS_S = (0.5, 0.5, 0.75, 1.0, 1.0, 1.5, 2.0)
PRIOR = {"en": 0.5, "kn": 0.25, "other": 0.25}
SHARES = {"en": 0.31, "kn": 0.31, "noise": 0.07}  # of a batch; the rest is the other languages'
SOURCES = {"human": 0.2, "espeak": 0.5, "joe": 0.2, "kokoro": 0.12, "pico": 0.1, "made": 1.0}


class Store:
    """All utterances, their audio in one tensor, by (language, source)."""

    def __init__(self, folder: Path) -> None:
        audio, self.start, self.length, self.human = [], [], [], []
        self.groups: dict[tuple[str, str], list[int]] = {}
        used = 0
        for path in sorted(folder.glob("*.json")):
            pcm = np.fromfile(path.with_suffix(".pcm"), dtype="<i2")
            audio.append(pcm)
            at = used
            for row in json.loads(path.read_text()):
                language, source = row["voice"].split("/")[:2]
                self.groups.setdefault((language, source), []).append(len(self.start))
                self.start.append(at)
                self.length.append(row["samples"])
                self.human.append(source == "human")
                at += row["samples"]
            used += len(pcm)
        if not audio:
            raise SystemExit(f"{folder} holds no shards: run `python -m training.lid_speech` first")
        self.pcm = torch.from_numpy(np.concatenate(audio))

    def minutes(self) -> dict[str, float]:
        """Minutes of audio by language and source."""
        return {
            "/".join(key): round(sum(self.length[i] for i in rows) / 960_000, 1)
            for key, rows in sorted(self.groups.items())
        }

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw utterances by the shares of languages and sources; indices and classes."""
        present = {language for language, _ in self.groups}
        others = [c for c in CLASSES if c in present and c not in SHARES]
        rest = 1.0 - sum(SHARES.values())
        share = {**{k: v for k, v in SHARES.items() if k in present}}
        share |= {language: rest / len(others) for language in others}
        names = list(share)
        p = np.array([share[n] for n in names])
        rows, classes = [], []
        for language in rng.choice(names, count, p=p / p.sum()):
            sources = [s for name, s in self.groups if name == language]
            weight = np.array([SOURCES[s] for s in sources])
            source = rng.choice(sources, p=weight / weight.sum())
            rows.append(int(rng.choice(self.groups[(language, source)])))
            classes.append(CLASSES.index(language))
        return np.array(rows), np.array(classes)


def made_noise(seconds: float, seed: int) -> list[tuple[np.ndarray, str, str]]:
    """Silence, coloured noise, hum, clicks and simple music: what is no language."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[np.ndarray, str, str]] = []
    while sum(len(a) for a, _, _ in rows) < seconds * 16_000:
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
        rows.append((wave.astype(np.int16), "", "noise/made/noise"))
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


class _Reverse(torch.autograd.Function):
    """Nothing forwards; the gradient's opposite backwards (Ganin and Lempitsky 2015)."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return -gradient


def crops(
    pcm: Tensor, start: np.ndarray, length: np.ndarray, n: int, rng: np.random.Generator
) -> Tensor:
    """Cut n samples out of each utterance, at a random place and speed (linear interpolation).

    Args:
        pcm: int16, all audio end to end.
        start: first sample of each utterance, (batch,).
        length: samples of each, (batch,).
        n: samples to cut; a shorter utterance has silence around it.
        rng: draws place and speed.

    Returns:
        [batch, n] float32 in -1 to 1.
    """
    speed = rng.uniform(0.85, 1.18, len(start))
    spare = length - n * speed
    place = np.where(spare > 0, rng.random(len(start)) * spare, rng.random(len(start)) * spare / 2)
    at = torch.from_numpy(place[:, None] + np.arange(n) * speed[:, None])
    whole = at.floor().long()
    part = (at - whole).float()
    last = torch.from_numpy(length)[:, None] - 2
    inside = (whole >= 0) & (whole <= last)
    index = torch.from_numpy(start)[:, None] + whole.clamp(min=0).minimum(last)
    wave = torch.lerp(pcm[index].float(), pcm[index + 1].float(), part)
    return wave * inside / 32768.0


def batch_of(
    store: Store, count: int, seconds: float, rng: np.random.Generator, strength: Strength
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw crops of one length; features, classes, and whether each is a person."""
    rows, classes = store.draw(count, rng)
    start = np.array([store.start[i] for i in rows])
    length = np.array([store.length[i] for i in rows])
    wave = crops(store.pcm, start, length, int(seconds * 16_000), rng)
    wave = degrade(wave, torch.full((count,), wave.shape[1]), strength)
    mel = log_mel_batch(wave)
    mel = mask_features(mel, torch.full((count,), mel.shape[2]), strength)
    human = torch.tensor([store.human[i] for i in rows])
    return mel, torch.from_numpy(classes), human


def loss_of(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of English, Kannada, other; and, less, of the language among the others."""
    named = len(NAMED)
    chance = torch.log_softmax(logits, dim=1)
    grouped = torch.cat([chance[:, :named], chance[:, named:].logsumexp(1, keepdim=True)], dim=1)
    coarse = nn.functional.nll_loss(grouped, classes.clamp(max=named))
    return coarse + 0.25 * nn.functional.cross_entropy(logits, classes, label_smoothing=0.05)


def train(store: Store, minutes: float, steps: int | None, seed: int, batch: int = 64) -> LidNet:
    """Train until the time or the steps are over."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = LidNet()
    judge = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995), use_buffers=True
    )
    parameters = [*net.parameters(), *judge.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-2)
    strength = Strength(noise=0.7, babble=0.15, snr_db=(3.0, 30.0), time_masks=1)
    began = said = time.monotonic()
    step, at, losses, rights = 0, 0.0, [], []
    while at < 1.0:
        at = step / steps if steps else (time.monotonic() - began) / (60 * minutes)
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, at / 0.05 + 0.01) * (1.02 - min(at, 1.0))
        seconds = float(rng.choice(LENGTHS_S))
        net.train()
        with torch.no_grad():
            mel, classes, human = batch_of(store, batch, seconds, rng, strength)
        embedding = net.embedding(mel)
        logits = net.out(net.dropout(embedding))
        loss = loss_of(logits, classes)
        english = classes == 0
        fooled = torch.zeros(())
        if human[english].any():
            guess = judge(_Reverse.apply(embedding[english])).squeeze(1)
            fooled = nn.functional.binary_cross_entropy_with_logits(guess, human[english].float())
        optimiser.zero_grad()
        (loss + 0.2 * min(1.0, 4 * at) * fooled).backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        average.update_parameters(net)
        step += 1
        losses.append(float(loss.detach()))
        right = logits.argmax(1).clamp(max=len(NAMED)) == classes.clamp(max=len(NAMED))
        rights.append(float(right.float().mean()))
        if time.monotonic() - said > 20:
            said = time.monotonic()
            print(
                f"{at:4.0%} step {step} loss {np.mean(losses[-100:]):.3f} "
                f"right {np.mean(rights[-100:]):.3f} judge {float(fooled):.2f}",
                flush=True,
            )
    print(f"{step} steps; loss {np.mean(losses[:20]):.3f} to {np.mean(losses[-50:]):.3f}")
    module: LidNet = average.module  # type: ignore[assignment]
    module.first_loss, module.last_loss = np.mean(losses[:10]), np.mean(losses[-20:])
    return module.eval()


@torch.no_grad()
def temperature(net: LidNet, store: Store, seed: int) -> float:
    """The temperature that makes posteriors of held-out voices, in noise, likeliest."""
    rng = np.random.default_rng(seed + 1)
    pairs = [batch_of(store, 64, s, rng, Strength()) for s in (0.5, 1.0, 2.0) for _ in range(5)]
    scored = [(net(mel), classes) for mel, classes, _ in pairs]
    values = np.linspace(0.6, 2.5, 39)
    cost = [sum(float(loss_of(logits / t, c)) for logits, c in scored) for t in values]
    return float(values[int(np.argmin(cost))])


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
    """Train for seconds on four sentences a language; fail unless it learns and opens."""
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
            rows = synthesise(say, lambda r, line=line: line, language, 30.0, 0)
            write_shard(folder, f"{language}-espeak", rows)
        write_shard(folder, "noise", made_noise(20, 0))
        store = Store(folder)
        net = train(store, 0, 80, 0, batch=32)
        if not net.last_loss < 0.8 * net.first_loss:
            raise SystemExit(f"smoke: the loss did not fall ({net.first_loss} to {net.last_loss})")
        export(net, folder / "lid.onnx", 1.0)
        scores = clip_scores(TinyIdentifier(folder / "lid.onnx"), made_noise(3, 1)[0][0])
        print(
            f"smoke: loss {net.first_loss:.2f} to {net.last_loss:.2f}; the export opens: {scores}"
        )


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(".data/lid"))
    parser.add_argument("--held-out", type=Path, default=Path(".data/lid-held"))
    parser.add_argument("--human", type=Path, default=Path("../shared/speech/dev/manifest.jsonl"))
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--steps", type=int, help="train this many steps, whatever the clock says")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", type=Path, metavar="FILE")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.smoke:
        return smoke()
    if not args.measure:
        write_shard(args.data, "noise-made", made_noise(900, args.seed))
        store = Store(args.data)
        print(json.dumps(store.minutes()))
        net = train(store, args.minutes, args.steps, args.seed)
        export(net, args.model, temperature(net, Store(args.held_out), args.seed))
    from training.tiny_lid_measure import measure

    measure(args.measure or args.model, args.held_out, args.human, args.seed)
    return None


if __name__ == "__main__":
    main()
