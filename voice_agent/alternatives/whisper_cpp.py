"""whisper.cpp: in this process through pywhispercpp, or a running `whisper-server`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from voice_agent.alternatives.http import SpeechServer
from voice_agent.alternatives.languages import primary
from voice_agent.alternatives.loading import Choice, need, weights
from voice_agent.alternatives.redecode import redecoding
from voice_agent.alternatives.worker import Decoded, WorkerRecognizer
from voice_agent.engine.errors import CorruptCheckpoint, EngineError, ModelNotFound
from voice_agent.engine.recognizer import SAMPLE_RATE, StreamOptions

DEFAULT_MODEL = "small"
SHORTEST = SAMPLE_RATE + SAMPLE_RATE // 10
"""whisper.cpp returns nothing for less than a second of audio; shorter segments get silence."""


def load(choice: Choice) -> WorkerRecognizer:
    """Load a ggml file (by path or name), or connect to `choice.url`.

    Raises:
        MissingExtra: pywhispercpp is not installed and no server was named.
        ModelNotFound: no such file, and it cannot be fetched.
        CorruptCheckpoint: a file that whisper.cpp cannot read.
        NoServer: nothing answers at `choice.url`.
        EngineError: CUDA was asked for and this build has none.
    """
    return _remote(choice) if choice.url else _local(choice)


def _local(choice: Choice) -> WorkerRecognizer:
    library = need("whisper.cpp", "pywhispercpp.model", package="pywhispercpp", extra="whisper-cpp")
    cuda = choice.device.startswith("cuda")
    if cuda and "CUDA" not in library.Model.system_info():
        # Asked for a GPU, it would compute on the CPU without a word.
        raise EngineError(
            "this pywhispercpp is a build for CPUs, as PyPI's wheels are; build it with "
            "`GGML_CUDA=1 pip install --no-binary :all: pywhispercpp`, or use --device cpu"
        )
    name = choice.model or DEFAULT_MODEL
    known = need("whisper.cpp", "pywhispercpp.constants", package="", extra="").AVAILABLE_MODELS
    # Given anything else, pywhispercpp logs a line and goes on without a model.
    if not Path(name).is_file() and name not in known:
        raise ModelNotFound(name, "no such ggml file; give a path to one, or a name such as small")
    fetch = f"python -c 'from pywhispercpp.utils import download_model as d; d(\"{name}\")'"
    said: list[str] = []
    with weights(name, fetch):
        library.pw.whisper_log_set(lambda level, line: said.append(line))
        try:
            # One core stays free: ggml's threads spin, and more of them than cores slow each other.
            model = library.Model(
                name,
                print_progress=False,
                context_params={"use_gpu": choice.device != "cpu"},
                n_threads=max(1, min(4, (os.cpu_count() or 1) - 1)),
            )
        finally:
            library.pw.whisper_log_set(None)
    # Of a file that it cannot read whisper.cpp says so in its log, and pywhispercpp returns a
    # model that crashes the process when it is used.
    if any("failed to load model" in line for line in said):
        raise CorruptCheckpoint(name, said[-2].strip().split(": ", 1)[-1])
    unknown = "en" if ".en" in Path(name).name else "auto"

    def decode(pcm: np.ndarray, options: StreamOptions, *, final: bool) -> Decoded:
        padded = np.pad(pcm, (0, max(0, SHORTEST - pcm.size)))
        language = primary(options.language) or unknown
        # temperature_inc 0: decode once, instead of up to six times while the caller waits.
        segments = model.transcribe(padded, language=language, no_context=True, temperature_inc=0.0)
        return Decoded(" ".join(s.text.strip() for s in segments).strip())

    return WorkerRecognizer(
        f"whisper.cpp {Path(name).name}", redecoding(decode), streaming=False, slots=choice.slots
    )


def _remote(choice: Choice) -> WorkerRecognizer:
    assert choice.url is not None
    server = SpeechServer("whisper.cpp", choice.url, start="whisper-server -m ggml-small.bin")
    server.check("/")

    def decode(pcm: np.ndarray, options: StreamOptions, *, final: bool) -> Decoded:
        padded = np.pad(pcm, (0, max(0, SHORTEST - pcm.size)))
        fields = {"response_format": "json", "language": primary(options.language) or "auto"}
        said = server.post("/inference", padded, fields)
        return Decoded(" ".join(str(said.get("text", "")).split()))

    # whisper-server computes one request at a time, so partials would only delay finals.
    return WorkerRecognizer(
        "whisper.cpp", redecoding(decode, None), streaming=False, slots=choice.slots,
        workers=choice.slots, on_close=server.close,
    )  # fmt: skip
