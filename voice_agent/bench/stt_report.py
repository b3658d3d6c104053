"""The report of `bench stt`: rows from measurements; JSON, Markdown and a plot from rows."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from voice_agent.bench.corpus import Clip
    from voice_agent.bench.stt import Store


@dataclass(frozen=True, slots=True)
class Row:
    """One system; None where something was not measured.

    Attributes:
        system: as it was asked for.
        recognizer: what answered, with its model.
        device: as it was asked for.
        licence: of its weights.
        clips: that were transcribed.
        failed: clips that were not.
        words: of the references that were scored.
        wer: word error rate, pooled.
        cer: character error rate, pooled.
        rtf: seconds until the final for a second of audio, each clip fed at once.
        ttfs_p50_ms: last sample to final at real-time pace, median over clips.
        ttfs_p95_ms: 95th percentile.
        ttfs_p99_ms: 99th percentile.
        partial_p50_ms: first sample to first partial, median.
        memory_mb: peak resident memory of its process.
        gpu_mb: peak memory that torch held on a GPU.
        long_s: seconds for thirty seconds of speech.
        ratio: how many times faster than faster-whisper in int8 on this CPU, on those.
    """

    system: str
    recognizer: str
    device: str
    licence: str
    clips: int
    failed: int
    words: int
    wer: float | None
    cer: float | None
    rtf: float | None
    ttfs_p50_ms: float | None
    ttfs_p95_ms: float | None
    ttfs_p99_ms: float | None
    partial_p50_ms: float | None
    memory_mb: float | None
    gpu_mb: float | None
    long_s: float | None
    ratio: float | None = None


def row(
    label: str,
    name: str,
    store: Store,
    settings: dict[str, Any],
    clips: Sequence[Clip],
    device: str,
) -> Row:
    """Add a system's measurements up.

    Args:
        label: the system as it was asked for.
        name: in the table of systems.
        store: every measurement.
        settings: those that count.
        clips: with their texts.
        device: as it was asked for.
    """
    from voice_agent.alternatives import system
    from voice_agent.bench.scores import score

    newest: dict[tuple[str, str], dict[str, Any]] = {}
    process: dict[str, Any] = {}
    for line in store.of(label, settings):
        if line["is"] == "Process":
            # The peak of a resumed run is the higher of its processes'.
            known = process.get("memory_mb", 0.0)
            process = {**line, "memory_mb": max(known, line["memory_mb"])}
        else:
            newest[line["kind"], line["clip"]] = line
    by_name = {clip.name: clip for clip in clips}
    fast = [m for (kind, c), m in newest.items() if kind == "fast" and c in by_name]
    good = [m for m in fast if not m["error"]]
    live = [m for (kind, c), m in newest.items() if kind == "live" and not m["error"]]
    rates = score([(by_name[m["clip"]].text, m["text"], by_name[m["clip"]].language) for m in good])
    ttfs = [1000 * m["final_s"] for m in live]
    partials = [1000 * m["partial_s"] for m in live if m["partial_s"] is not None]
    audio_s = sum(m["audio_s"] for m in good)
    long = newest.get(("long", "30 s"), {})
    return Row(
        system=label,
        recognizer=process.get("recognizer", ""),
        device=device,
        licence=system(name).licence,
        clips=len(good),
        failed=len(fast) - len(good),
        words=rates.words if rates else 0,
        wer=rates.wer if rates else None,
        cer=rates.cer if rates else None,
        rtf=sum(m["final_s"] for m in good) / audio_s if audio_s else None,
        ttfs_p50_ms=_percentile(ttfs, 50),
        ttfs_p95_ms=_percentile(ttfs, 95),
        ttfs_p99_ms=_percentile(ttfs, 99),
        partial_p50_ms=_percentile(partials, 50),
        memory_mb=process.get("memory_mb"),
        gpu_mb=process.get("gpu_mb"),
        long_s=long.get("final_s"),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    head = (
        "| system | clips | WER % | CER % | RTF | TTFS p50/p95/p99 ms | first partial ms | "
        "memory MB | GPU MB | 30 s clip, s | × faster-whisper int8 CPU |"
    )
    lines = [head, "|---" * 11 + "|"]
    for r in rows:
        ttfs = "/".join(_text(v, ".0f") for v in (r.ttfs_p50_ms, r.ttfs_p95_ms, r.ttfs_p99_ms))
        cells = (
            _short(r.system), f"{r.clips}" + (f" ({r.failed} failed)" if r.failed else ""),
            _text(r.wer, ".1f", 100), _text(r.cer, ".1f", 100), _text(r.rtf, ".3f"),
            "-" if r.ttfs_p50_ms is None else ttfs, _text(r.partial_p50_ms, ".0f"),
            _text(r.memory_mb, ".0f"), _text(r.gpu_mb, ".0f"), _text(r.long_s, ".2f"),
            _text(r.ratio, ".2f"),
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(
    out: Path,
    rows: Sequence[Row],
    problems: dict[str, str],
    *,
    clips: Sequence[Clip],
    live: int,
    parallel: int,
    yard_s: float | None,
) -> None:
    """Write `stt.json`, `stt.md` and, where there is something to show, `stt.png`."""
    conditions = {
        **machine(),
        "clips": len(clips),
        "clips_live": min(live, len(clips)),
        "parallel": parallel,
        "languages": sorted({c.language for c in clips}),
        "faster_whisper_int8_cpu_30_s": yard_s,
    }
    report = {"conditions": conditions, "rows": [asdict(r) for r in rows], "problems": problems}
    (out / "stt.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    lines = ["# Speech-to-text systems", "", table(rows), ""]
    lines += [f"- {name} could not run: {why}" for name, why in problems.items()]
    lines += ["", "Conditions: " + "; ".join(f"{k} {v}" for k, v in conditions.items()) + ".", ""]
    lines += [
        "RTF: each clip fed at once; with several clips in parallel, of one among them. TTFS: "
        "from the last sample to the final at real-time pace, without a VAD's stop time. Memory: "
        "peak of the system's own process (a client's, where the model is on a server).", "",
    ]  # fmt: skip
    (out / "stt.md").write_text("\n".join(lines), encoding="utf-8")
    _plot(out / "stt.png", rows)


def machine() -> dict[str, str]:
    """What the figures hold for: read from this machine, never typed."""
    from importlib.metadata import PackageNotFoundError, version

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            x.split(":", 1)[1].strip() for x in info.read_text().splitlines() if "model name" in x
        ]
        cpu = f"{names[0]} x{len(names)}" if names else cpu
    found = {"cpu": cpu, "python": sys.version.split()[0]}
    for package in ("torch", "ctranslate2", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    driver = Path("/proc/driver/nvidia/version")
    if driver.is_file():
        found["driver"] = driver.read_text().splitlines()[0]
    return found


def _plot(file: Path, rows: Sequence[Row]) -> None:
    shown = [r for r in rows if r.wer is not None and (r.ttfs_p95_ms or r.long_s)]
    if not shown:
        return
    from matplotlib.figure import Figure

    # TTFS where clips were played live; else the time for the long clip.
    live = all(r.ttfs_p95_ms is not None for r in shown)
    across = [(r.ttfs_p95_ms or 0.0) if live else 1000 * (r.long_s or 0.0) for r in shown]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(across, [100 * (r.wer or 0.0) for r in shown])
    for r, x in zip(shown, across, strict=True):
        axes.annotate(_short(r.system), (x, 100 * (r.wer or 0.0)), xytext=(5, 5),
                      textcoords="offset points")  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("TTFS p95, ms" if live else "time for 30 s of speech, ms")
    axes.set_ylabel("WER, %")
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


def _short(system: str) -> str:
    """A model's path by its last part."""
    name, equals, model = system.partition("=")
    return f"{name}{equals}{Path(model).name}" if "/" in model else system


def _percentile(values: Sequence[float], q: float) -> float | None:
    return float(np.percentile(values, q)) if values else None


def _text(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else format(value * scale, form)
