"""What is transcribed: a manifest, a folder, or the few clips that every install has.

A manifest is JSON lines: `audio` (a path beside the manifest, or `package:MODULE/PATH` inside an
installed package), `text`, `language` (or `lang`), `licence`, and `from_s`, `to_s` for a part of
the file. Only `audio` must be there; a clip without text is timed and not scored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from voice_agent.engine.recognizer import SAMPLE_RATE

DEFAULT = Path(__file__).with_name("speech.jsonl")
"""A man reading Dickens, from the wheel that the extra `demo` installs."""

AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".au", ".caf")
LONG_S = 30.0


class BadManifest(ValueError):
    """A manifest or folder that cannot be used; the message says which line and why."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording.

    Attributes:
        name: as the manifest has it, with its part; unique within a run.
        path: the file.
        text: what is said; empty where nobody wrote it down.
        language: code without a region.
        from_s: where it begins in the file.
        to_s: where it ends; None for the file's end.
    """

    name: str
    path: Path
    text: str
    language: str
    from_s: float = 0.0
    to_s: float | None = None

    def pcm(self) -> np.ndarray:
        """Read it: float32, shape (n,), 16 kHz mono.

        Raises:
            BadManifest: the file is missing or is no audio.
        """
        import soundfile
        import soxr

        try:
            with soundfile.SoundFile(self.path) as file:
                rate = file.samplerate
                file.seek(round(self.from_s * rate))
                frames = -1 if self.to_s is None else round((self.to_s - self.from_s) * rate)
                audio = file.read(frames, dtype="float32", always_2d=True).mean(axis=1)
        except (OSError, soundfile.LibsndfileError) as error:
            raise BadManifest(f"{self.path}: cannot be read as audio: {error}") from error
        if rate != SAMPLE_RATE:
            audio = soxr.resample(audio, rate, SAMPLE_RATE)
        return np.ascontiguousarray(audio, dtype=np.float32)


def read(where: Path, language: str | None = None, limit: int | None = None) -> list[Clip]:
    """Read a manifest, or a folder of recordings.

    In a folder, `manifest.jsonl` counts if it is there; else every audio file is a clip and a
    `.txt` of the same name its text.

    Args:
        where: the file or folder.
        language: BCP-47 code; only clips of this language count, whatever their region. In a
            folder without a manifest, it is the clips'.
        limit: no more clips than this.

    Raises:
        BadManifest: nothing usable there.
    """
    language = language and _primary(language)
    if where.is_dir() and (where / "manifest.jsonl").is_file():
        where = where / "manifest.jsonl"
    if where.is_dir():
        clips = _folder(where, language or "en")
    else:
        clips = _manifest(where)
        clips = [c for c in clips if language is None or c.language == language]
    if not clips:
        wanted = f" in language {language!r}" if language else ""
        raise BadManifest(f"{where} holds no recordings{wanted}")
    return clips[:limit]


def _folder(folder: Path, language: str) -> list[Clip]:
    clips = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in AUDIO):
        written = path.with_suffix(".txt")
        text = written.read_text(encoding="utf-8").strip() if written.is_file() else ""
        clips.append(Clip(path.name, path, text, language))
    return clips


def _manifest(file: Path) -> list[Clip]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadManifest(f"{file}: cannot be read as a manifest: {error}") from error
    clips = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, start = str(row["audio"]), float(row.get("from_s", 0.0))
        except (ValueError, KeyError, TypeError) as error:
            raise BadManifest(
                f"{file}, line {number}: not a manifest line ({error!r}); each holds JSON with "
                'at least "audio"'
            ) from error
        language = _primary(str(row.get("language") or row.get("lang") or "en"))
        end = None if row.get("to_s") is None else float(row["to_s"])
        label = name if end is None else f"{name}@{start:g}-{end:g}"
        clips.append(
            Clip(label, _path(file, name), str(row.get("text") or ""), language, start, end)
        )
    return clips


def _primary(language: str) -> str:
    """Without a region: scores and systems go by the language alone."""
    return language.split("-")[0].lower()


def _path(manifest: Path, name: str) -> Path:
    if not name.startswith("package:"):
        return manifest.parent / name
    package, _, inside = name.removeprefix("package:").partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise BadManifest(
            f"{manifest}: its recordings are in the package {package!r}, which is not installed: "
            "pip install 'voice-agent[demo]', or name a --manifest of your own"
        )
    return Path(spec.origin).parent / inside


def long_clip(clips: list[Clip]) -> np.ndarray:
    """Thirty seconds of speech for the comparison of speed: clips in order, joined and cut.

    Returns:
        float32, shape (480000,); repeated where the clips are shorter together.
    """
    need = round(LONG_S * SAMPLE_RATE)
    pieces: list[np.ndarray] = []
    size = 0
    while size < need:
        for clip in clips:
            pieces.append(clip.pcm())
            size += pieces[-1].size
            if size >= need:
                break
        if not size:
            raise BadManifest("the clips hold no audio")
    return np.concatenate(pieces)[:need]
