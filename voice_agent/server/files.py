"""`POST /v1/audio/transcriptions`: a whole recording, in OpenAI's shape.

    admitted      before a byte of the body is read
    read          the form; a body over the limit is left unread (413)
    transcribed   on a thread of its own: the speech that the VAD finds, a segment at a time
    answered      json, verbose_json, text, srt, vtt, or with stream=true server-sent events

A client that hangs up stops the work. Fields that are not served are named in an error.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any

from fastapi import APIRouter, Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from voice_agent.config import SttSettings
from voice_agent.engine.errors import EngineError
from voice_agent.engine.recognizer import Recognizer
from voice_agent.server.access import Client
from voice_agent.server.api import Api, Turned
from voice_agent.server.file_answers import (
    FORMATS,
    OpenAIFormat,
    done_event,
    openai_error,
    render,
    segment_event,
)
from voice_agent.server.sessions import SESSION_HEADER
from voice_agent.transcribe.audio import STDIN, open_audio
from voice_agent.transcribe.errors import AudioFileError
from voice_agent.transcribe.transcriber import Segment, Transcript, transcribe

KIND = "transcriptions"
MAX_BYTES = 512 << 20
"""A body's bytes at most: more than four hours of 16-bit audio at 16 kHz."""

THEIR_MODELS = ("whisper", "gpt-", "default")
_FIELDS = (
    "file",
    "model",
    "language",
    "response_format",
    "timestamp_granularities",
    "stream",
    "temperature",
    "chunking_strategy",
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A form, read.

    Attributes:
        name: of the file, for errors.
        file: the recording.
        format: of the answer.
        granularities: "segment" and "word", of verbose_json.
        language: BCP-47 code; None where the recogniser decides.
        stream: server-sent events are wanted.
    """

    name: str
    file: IO[bytes]
    format: OpenAIFormat
    granularities: frozenset[str]
    language: str | None
    stream: bool


class _Stopped(Exception):
    """The client is gone."""


class _Work:
    """One recording on its thread; events come to the loop in order, the last one is None."""

    def __init__(
        self, pool: Executor, recognizer: Recognizer, asked: Asked, settings: SttSettings
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._recognizer = recognizer
        self._asked = asked
        self._settings = settings
        self.heard_s = 0.0
        self.begun = asyncio.Event()
        self.segments: asyncio.Queue[Segment | None] = asyncio.Queue()
        self.result = self._loop.run_in_executor(pool, self._run)
        self.result.add_done_callback(self._finished)

    def _run(self) -> Transcript:
        try:
            with open_audio(STDIN, self._asked.file) as audio:
                transcript = transcribe(
                    audio,
                    self._recognizer,
                    language=self._asked.language,
                    right_context=self._settings.right_context,
                    final_pass=self._settings.final_pass,
                    on_segment=lambda segment: self._tell(self.segments.put_nowait, segment),
                    on_progress=self._progress,
                )
                self.heard_s = audio.duration_s
                return transcript
        except AudioFileError as error:
            problem = str(error).removeprefix(f"{error.file}: ")
            raise AudioFileError(self._asked.name, problem) from error

    def _progress(self, read_s: float) -> None:
        if self._stop.is_set():
            raise _Stopped
        self.heard_s = read_s
        self._tell(lambda _: self.begun.set(), None)

    def _tell(self, call: Callable[[Segment | None], None], value: Segment | None) -> None:
        self._loop.call_soon_threadsafe(call, value)

    def _finished(self, _: object) -> None:
        self.begun.set()
        self.segments.put_nowait(None)

    async def stop(self) -> None:
        """Return when the thread has let go of the recogniser."""
        self._stop.set()
        await asyncio.wait({self.result})
        if not self.result.cancelled():
            self.result.exception()  # looked at, so that asyncio does not report it


def routes(api: Api) -> APIRouter:
    """The route of the module docstring."""
    router = APIRouter(tags=["transcription"])

    @router.post("/v1/audio/transcriptions")
    async def transcriptions(request: Request) -> Response:
        with ExitStack() as held:
            try:
                client = await api.admit(request)
                session_id = held.enter_context(api.lease(KIND, client))
                form = await _form(request)
                held.callback(_close_files, form)
                asked = _read(form, api.recognizer.name)
                work = _Work(api.files, api.recognizer, asked, api.agent.settings.stt)
                held.callback(_count, api, client, work)
                if asked.stream:
                    await _begin(api, work)
                    return _known(_Events(work, held.pop_all()), session_id)
                return _known(await _whole(api, request, work, asked), session_id)
            except Turned as turned:
                return answer(turned)

    return router


def _known(response: Response, session_id: str) -> Response:
    """Tell the client what logs call its session."""
    response.headers[SESSION_HEADER] = session_id
    return response


def answer(turned: Turned) -> JSONResponse:
    """A refusal in OpenAI's shape."""
    return JSONResponse(
        openai_error(str(turned), turned.status, turned.reason),
        status_code=turned.status,
        headers=turned.headers,
    )


async def _whole(api: Api, request: Request, work: _Work, asked: Asked) -> Response:
    gone = asyncio.create_task(_gone(request))
    either: set[asyncio.Future[Any]] = {work.result, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not work.result.done():
            return Response(status_code=499)  # nobody reads it
        return _rendered(asked, _outcome(api, work), work.heard_s)
    finally:
        gone.cancel()
        await asyncio.shield(work.stop())


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _rendered(asked: Asked, transcript: Transcript, heard_s: float) -> Response:
    body, media_type = render(transcript, heard_s, asked.format, asked.granularities)
    return Response(body, media_type=media_type)


def _outcome(api: Api, work: _Work) -> Transcript:
    """The transcript.

    Raises:
        Turned: what kept it from being made.
    """
    with api.turning():
        try:
            return work.result.result()
        except AudioFileError as error:
            raise Turned(400, "file", str(error)) from error


async def _begin(api: Api, work: _Work) -> None:
    """Wait for the first second: what fails before it still has a status to fail with."""
    await work.begun.wait()
    if work.result.done() and work.result.exception() is not None:
        _outcome(api, work)


class _Events(StreamingResponse):
    """Server-sent events; what is held is let go even where nobody reads the first one."""

    def __init__(self, work: _Work, held: ExitStack) -> None:
        super().__init__(_events(work), media_type="text/event-stream")
        self._work = work
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            try:
                await super().__call__(scope, receive, send)
            finally:
                await asyncio.shield(self._work.stop())


async def _events(work: _Work) -> AsyncIterator[str]:
    first = True
    while (segment := await work.segments.get()) is not None:
        yield _sse(segment_event(segment, first=first))
        first = False
    try:
        yield _sse(done_event(work.result.result(), work.heard_s))
    except (AudioFileError, EngineError) as error:
        yield _sse({"type": "error", **openai_error(str(error), 500, "transcription")})


def _sse(event: dict[str, object]) -> str:
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"


def _count(api: Api, client: Client, work: _Work) -> None:
    api.metrics.audio_s.labels(KIND).inc(work.heard_s)
    api.access.heard(client, work.heard_s)


# The form


async def _form(request: Request) -> FormData:
    limited = Request(request.scope, _limited(request.receive, MAX_BYTES))
    try:
        return await limited.form(max_files=1, max_fields=32)
    except HTTPException as error:  # what Starlette makes of a form that it cannot read
        raise Turned(400, "form", f"the form cannot be read: {error.detail}") from error


def _limited(receive: Receive, limit: int) -> Receive:
    taken = 0

    async def some() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise Turned(
                413, "size", f"a recording has {limit >> 20} MiB at most; send it in parts"
            )
        return message

    return some


def _close_files(form: FormData) -> None:
    for value in form.values():
        if isinstance(value, UploadFile):
            value.file.close()


def _read(form: FormData, served: str) -> Asked:
    fields: dict[str, list[str]] = {}
    upload: UploadFile | None = None
    for name, value in form.multi_items():
        name = name.removesuffix("[]")
        if name not in _FIELDS:
            raise Turned(400, name, f"{name} is not served here; known are {', '.join(_FIELDS)}")
        if isinstance(value, UploadFile):
            upload = value
        else:
            fields.setdefault(name, []).append(value)
    if upload is None:
        raise Turned(400, "file", "file is missing; send the recording as a multipart file")
    one = {name: values[-1] for name, values in fields.items()}
    try:
        check_model(one.get("model", served), served)
    except ValueError as error:
        raise Turned(404, "model_not_found", str(error)) from error
    kind = _choice(one, "response_format", FORMATS, "json")
    granularities = frozenset(fields.get("timestamp_granularities", ["segment"]))
    if granularities - {"segment", "word"}:
        raise Turned(400, "timestamp_granularities", "timestamp_granularities are segment and word")
    if "word" in granularities and kind != "verbose_json":
        raise Turned(
            400,
            "timestamp_granularities",
            "timestamp_granularities=word needs response_format=verbose_json",
        )
    stream = _choice(one, "stream", ("true", "false"), "false") == "true"
    if stream and kind not in ("json", "text"):
        raise Turned(400, "stream", f"stream=true has events of its own, not {kind}; leave it out")
    if float_of(one.get("temperature", "0")) != 0:
        raise Turned(400, "temperature", "temperature is 0 here: decoding draws nothing")
    _choice(one, "chunking_strategy", ("auto",), "auto")
    return Asked(
        name=upload.filename or "file",
        file=upload.file,
        format=kind,  # type: ignore[arg-type]
        granularities=granularities,
        language=one.get("language") or None,
        stream=stream,
    )


def check_model(asked: str, served: str) -> None:
    """Accept the name of the recogniser, and those of OpenAI's.

    Raises:
        ValueError: another name; the message says which are served.
    """
    if asked != served and not asked.startswith(THEIR_MODELS):
        raise ValueError(
            f"model {asked[:40]!r} is not served here; this server runs {served!r}, which also "
            "answers to OpenAI's transcription models"
        )


def _choice(one: dict[str, str], name: str, choices: tuple[str, ...], default: str) -> str:
    value = one.get(name, default)
    if value not in choices:
        raise Turned(400, name, f"{name} is {' or '.join(choices)}, got {value[:40]!r}")
    return value


def float_of(text: str) -> float:
    """A number, or NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
