"""A recogniser on another machine, behind the recogniser protocol.

`RemoteRecognizer(url)` speaks `/v1/listen` to a server of ours, so a bot needs neither the model
nor a GPU. Segments are cut by the caller's `finish()`, never by the server. A connection that is
lost is taken up again without the caller noticing more than a delay.

One thread with an event loop serves every stream of a recogniser. `open` returns before the
server has answered, so what `open` would raise elsewhere (a full server, a language that it does
not write) comes as the stream's `Failed` here.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from voice_agent.client import ListenError, Listening
from voice_agent.engine.errors import EngineClosed, EngineError, StreamClosed
from voice_agent.engine.recognizer import (
    Deliver,
    Event,
    Failed,
    Final,
    OnEvent,
    Partial,
    StreamOptions,
    Word,
    as_float32,
    deliver_here,
)
from voice_agent.wire import Results

_CLOSE_S = 5.0


class RemoteRecognizer:
    """See the module docstring. Implements `voice_agent.engine.recognizer.Recognizer`.

    Attributes:
        name: the server's URL.
        languages: empty: the server knows.
        streaming: always True.
    """

    streaming = True
    languages: tuple[str, ...] = ()

    def __init__(self, url: str, *, key: str | None = None) -> None:
        """Start the thread; nothing is connected before the first `open`.

        Args:
            url: of the server: "ws://host:port", or with http, wss or https.
            key: bearer key, where the server wants one.

        Raises:
            ValueError: what is no URL of a server.
        """
        Listening(url)  # a wrong URL is told now, not by the first stream
        self.name = url
        self._key = key
        self._streams: set[RemoteStream] = set()  # loop's thread
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="remote-recognizer", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def open(
        self,
        on_event: OnEvent,
        *,
        deliver: Deliver = deliver_here,
        options: StreamOptions | None = None,
    ) -> RemoteStream:
        """Begin a stream; see `Recognizer.open` and the module docstring."""
        options = options or StreamOptions()
        if self._closed:
            raise EngineClosed(f"the connection to {self.name} is closed")
        if unknown := options.extra.keys() - {"phrases"}:
            raise ValueError(f"{self.name} does not know the option {min(unknown)!r}")
        phrases = options.extra.get("phrases", {})
        if options.final_pass not in (None, "stream"):
            raise ValueError(f"{self.name} does not know final_pass={options.final_pass!r}")
        listening = Listening(
            self.name,
            key=self._key,
            interim_results=options.partials,
            language=options.language or "multi",
            right_context=options.right_context,
            endpointing=False,
            keyterm=[phrase for phrase, boost in phrases.items() if boost is None],
            keywords=[
                f"{phrase}:{boost}" for phrase, boost in phrases.items() if boost is not None
            ],
        )
        stream = RemoteStream(self, listening, options.language, on_event, deliver)
        self.post(stream.start)
        return stream

    def post(self, call: Callable[[], object]) -> None:
        """Call this on the loop's thread; not at all once the recogniser is closed."""
        if not self._closed:
            self._loop.call_soon_threadsafe(call)

    def close(self) -> None:
        """Hang up every stream, each with `Failed`, and end the thread. Idempotent."""
        if self._closed:
            return
        asyncio.run_coroutine_threadsafe(self._close_streams(), self._loop).result(_CLOSE_S)
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)

    async def _close_streams(self) -> None:
        tasks = [stream.stop() for stream in set(self._streams)]
        if tasks:
            await asyncio.wait(tasks)


@functools.cache
def remote_recognizer(url: str, key: str | None) -> RemoteRecognizer:
    """The process's recogniser for this server: one thread, however many services there are.

    Args:
        url: see `RemoteRecognizer`.
        key: see `RemoteRecognizer`.
    """
    return RemoteRecognizer(url, key=key)


class RemoteStream:
    """One caller. Implements `voice_agent.engine.recognizer.Stream`."""

    def __init__(
        self,
        owner: RemoteRecognizer,
        listening: Listening,
        language: str | None,
        on_event: OnEvent,
        deliver: Deliver,
    ) -> None:
        """Make a stream; `RemoteRecognizer.open` does."""
        self._owner = owner
        self._listening = listening
        self._language = language
        self._on_event = on_event
        self._deliver = deliver
        self._closed = False
        self._segment = 0  # the one that is fed; caller's thread
        self._fed = False
        self._dropped: set[int] = set()
        self._answered = 0  # segments whose final has come; loop's thread, as all below
        self._finished: deque[float] = deque()  # when segments ended whose final is to come
        self._task: asyncio.Task[None] | None = None

    # Caller's thread

    def feed(self, pcm: np.ndarray) -> None:
        """Append audio; see `Stream.feed`."""
        self._check()
        samples = as_float32(pcm)
        if not samples.size:
            return
        self._fed = True
        data = np.rint(np.clip(samples * 32768.0, -32768, 32767)).astype("<i2").tobytes()
        self._owner.post(lambda: self._listening.put(data))

    def finish(self) -> None:
        """End the segment; see `Stream.finish`."""
        self._check()
        self._segment += 1
        self._fed = False
        now = time.monotonic()
        self._owner.post(lambda: self._finish(now))

    def cancel(self) -> None:
        """Drop the segment; see `Stream.cancel`."""
        self._check()
        if self._fed:  # the server has it already: its text is thrown away when it comes
            self._dropped.add(self._segment)
            self.finish()

    def close(self) -> None:
        """Hang up; see `Stream.close`."""
        if not self._closed:
            self._closed = True
            self._owner.post(self._cancel_task)

    def _check(self) -> None:
        if self._closed:
            raise StreamClosed("the stream was closed; open a new one")

    # Loop's thread

    def start(self) -> None:
        """Connect and listen."""
        self._owner._streams.add(self)
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda _: self._owner._streams.discard(self))

    def stop(self) -> asyncio.Task[None]:
        """The recogniser is closed: say so and hang up."""
        assert self._task is not None, "stopped before it was started"
        self._emit(None, Failed(EngineClosed(f"the connection to {self._owner.name} was closed")))
        self._task.cancel()
        return self._task

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _finish(self, now: float) -> None:
        self._finished.append(now)
        self._listening.finalize()

    async def _run(self) -> None:
        try:
            async with self._listening as stream:
                async for message in stream:
                    if isinstance(message, Results):
                        self._on_results(message)
            self._emit(None, Failed(EngineClosed(f"{self._owner.name} has ended the session")))
        except ListenError as error:
            self._emit(None, Failed(EngineError(str(error))))

    def _on_results(self, results: Results) -> None:
        best = results.channel.alternatives[0]
        words = tuple(
            Word(w.punctuated_word, w.start - results.start, w.end - results.start, w.confidence)
            for w in best.words
        )
        segment = self._answered
        if not results.is_final:
            partial = Partial(best.transcript, words=words, audio_end_s=results.duration)
            self._emit(segment, partial)
        elif results.from_finalize:
            self._answered += 1
            waited_s = time.monotonic() - self._finished.popleft()
            self._emit(
                segment,
                Final(
                    best.transcript,
                    words=words,
                    language=best.languages[0] if best.languages else self._language,
                    audio_s=results.duration,
                    decode_ms=waited_s * 1000,
                ),
            )

    def _emit(self, segment: int | None, event: Event) -> None:
        def dispatch() -> None:
            if not self._closed and segment not in self._dropped:
                self._on_event(event)

        self._deliver(dispatch)
