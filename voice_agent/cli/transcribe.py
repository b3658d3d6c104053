"""`voice-agent transcribe`: files in, transcripts on stdout or in a folder.

The transcript goes to stdout, everything else (partials, progress, errors) to stderr, so that a
pipe gets nothing but the transcript. Partials and the progress bar appear on a terminal alone.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from voice_agent.cli import logs
from voice_agent.cli.errors import UsageFault
from voice_agent.cli.load import load, what
from voice_agent.config import Settings, load_settings

if TYPE_CHECKING:
    from voice_agent.engine.recognizer import Recognizer
    from voice_agent.transcribe.audio import AudioFile
    from voice_agent.transcribe.transcriber import Segment, Transcript

STDIN = "-"


def run(
    files: Sequence[str],
    config: Path | None,
    overrides: Mapping[str, Any],
    *,
    format: str,
    output: Path | None,
    one_segment: bool,
    verbose: bool,
) -> None:
    """Transcribe files, in order.

    Every file is opened before the model is loaded, so that a wrong name is told at once.

    Args:
        files: paths, or "-".
        config: settings file, for its `stt` part and `language`.
        overrides: flags, dotted; None where not given.
        format: "txt", "json", "srt" or "vtt".
        output: folder for one file a recording; None writes to stdout.
        one_segment: the VAD is off.
        verbose: log what happens.
    """
    logs.set_up(verbose)
    # Two: one recording's slot may be on its way back when the next one wants one.
    settings = load_settings(config, {**overrides, "stt.slots": 2})
    if "language" not in settings.model_fields_set:
        # Who is called at an agent of one language speaks it; a recording may be in any.
        settings = settings.model_copy(update={"language": "auto"})
    if files.count(STDIN) > 1:
        raise UsageFault("stdin (-) can be read only once")
    if format in ("srt", "vtt") and len(files) > 1 and output is None:
        raise UsageFault(
            f"{len(files)} files as {format} would run into each other; give --output FOLDER"
        )
    from voice_agent.transcribe.audio import open_audio

    with contextlib.ExitStack() as stack:
        recordings = [stack.enter_context(open_audio(name)) for name in files]
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
        screen = _Screen(Console(stderr=True))
        recognizer = stack.enter_context(_recognizer(settings, screen.console))
        writer = _Writer(format, output)
        for audio in recordings:
            with screen.recording(audio):
                transcript = _transcribe(audio, recognizer, settings, screen, one_segment)
            writer.write(transcript)
        writer.close()


@contextlib.contextmanager
def _recognizer(settings: Settings, console: Console) -> Iterator[Recognizer]:
    with console.status(f"loading {escape(what(settings))}"):
        recognizer = load(settings)
    try:
        yield recognizer
    finally:
        recognizer.close()


def _transcribe(
    audio: AudioFile,
    recognizer: Recognizer,
    settings: Settings,
    screen: _Screen,
    one_segment: bool,
) -> Transcript:
    from voice_agent.transcribe.transcriber import transcribe

    return transcribe(
        audio,
        recognizer,
        language=settings.spoken_language,
        right_context=settings.stt.right_context,
        final_pass=settings.stt.final_pass,
        one_segment=one_segment,
        on_partial=screen.partial if screen.live else None,
        on_segment=screen.segment,
        on_progress=screen.progress,
    )


class _Screen:
    """Partials and progress on a terminal; nothing elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal
        self._bar: Progress | None = None

    @contextlib.contextmanager
    def recording(self, audio: AudioFile) -> Iterator[None]:
        """Show one recording for as long as it is transcribed."""
        if not self.live:
            yield
            return
        bar = Progress(
            TextColumn("{task.percentage:>3.0f}%"),
            BarColumn(bar_width=20),
            TimeRemainingColumn(),
            TextColumn("{task.fields[heard]}", markup=False),
            console=self.console,
            transient=True,
        )
        with bar:
            self._task = bar.add_task("", total=audio.duration_s, heard="")
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None

    def partial(self, text: str) -> None:
        """Show the end of what the current segment says so far."""
        if self._bar is not None:
            room = max(10, self.console.width - 40)
            self._bar.update(self._task, heard=text[-room:])

    def segment(self, segment: Segment) -> None:
        """A segment is final: its partial goes."""
        self.partial("")

    def progress(self, seconds: float) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=seconds)


class _Writer:
    """Transcripts to stdout or to a folder, as each is done; JSON on stdout is one list."""

    def __init__(self, format: str, folder: Path | None) -> None:
        self._format = format
        self._folder = folder
        self._list: list[Transcript] = []
        self._names: set[str] = set()

    def write(self, transcript: Transcript) -> None:
        if self._folder is not None:
            path = self._folder / self._name(transcript.file)
            path.write_text(self._render([transcript]), encoding="utf-8")
            print(path, file=sys.stderr)
        elif self._format == "json":
            self._list.append(transcript)
        else:
            sys.stdout.write(self._render([transcript]))
            sys.stdout.flush()

    def close(self) -> None:
        if self._folder is None and self._format == "json":
            sys.stdout.write(self._render(self._list))

    def _render(self, transcripts: list[Transcript]) -> str:
        from voice_agent.transcribe import formats

        if self._format == "json":
            return formats.to_json(transcripts)
        render = {"txt": formats.to_txt, "srt": formats.to_srt, "vtt": formats.to_vtt}
        return render[self._format](transcripts[0])

    def _name(self, file: str) -> str:
        """A name of its own for each recording, even where two folders hold the same name."""
        stem = "stdin" if file == STDIN else Path(file).stem
        name, number = f"{stem}.{self._format}", 1
        while name in self._names:
            number += 1
            name = f"{stem}-{number}.{self._format}"
        self._names.add(name)
        return name
