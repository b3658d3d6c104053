"""The agent behind the routes: its settings, its one recogniser, its sessions.

    Agent()      refuses everybody: "the model is loading"
    load()       what calls need is built once, weights are read; then sessions are admitted
    make_call()  a pipeline for one client
    close()      no sessions any more, weights freed, the last traces sent

Whoever serves the app calls `load` and `close`; the routes ask for calls and sessions alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from voice_agent.config import DEFAULT_LANGUAGE, Settings
from voice_agent.engine.recognizer import Recognizer
from voice_agent.recognizers import load_recognizer
from voice_agent.server.sessions import SessionTable
from voice_agent.server.tracing import set_up
from voice_agent.server.watch import WatchedRecognizer, watched

if TYPE_CHECKING:
    from pipecat.observers.base_observer import BaseObserver
    from pipecat.transports.base_transport import BaseTransport
    from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection

    from voice_agent.server.calls import AgentCall

LOADING = "the model is loading"
CONNECT_TIMEOUT_S = 20.0
"""Seconds between an offer and its connection: ICE on a bad network takes several."""
DRAIN_S = 10.0
"""Seconds that sessions have to end when the server stops."""

Load = Callable[[Settings], Recognizer]
T = TypeVar("T")


class Agent:
    """What the routes of one server share. Event loop only.

    Attributes:
        settings: of the whole agent.
        sessions: who is talking.
        recognizer: None until `load` is done.
        watched: the recogniser, or its parts, for `voice_agent.server.watch`.
        connect_timeout_s: seconds that a client has to connect after its offer.
        observers: makes the Pipecat observers of a call.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        load: Load = load_recognizer,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        """Make an agent that does not admit anybody yet.

        Args:
            settings: of the whole agent.
            load: reads the weights; called once, on a worker thread.
            connect_timeout_s: seconds that a client has to connect after its offer.
        """
        self.settings = settings
        self.sessions = SessionTable(
            min(settings.server.max_sessions, settings.slots), closed_because=LOADING
        )
        self.recognizer: Recognizer | None = None
        self.watched: tuple[WatchedRecognizer, ...] = ()
        self.connect_timeout_s = connect_timeout_s
        self.observers: Callable[[], Sequence[BaseObserver]] = tuple
        self._load = load
        self._end_traces: Callable[[], None] = lambda: None

    async def load(self) -> Recognizer:
        """Load the recogniser, and what a first call would load, then admit sessions.

        Raises:
            ConfigError: an LLM or TTS that no call could use, or traces that cannot be made.
            EngineError: a model that cannot be used.
        """
        self._end_traces = await on_daemon_thread(partial(set_up, self.settings.tracing))
        if not self.settings.server.transcription_only:
            await on_daemon_thread(partial(rehearse, self.settings))
        loaded = await on_daemon_thread(partial(self._load, self.settings))
        self.recognizer, self.watched = watched(loaded)
        self.sessions.open()
        return self.recognizer

    async def make_call(
        self,
        transport: BaseTransport,
        *,
        session_id: str | None = None,
        connection: SmallWebRTCConnection | None = None,
    ) -> AgentCall:
        """Build the pipeline of one conversation.

        Args:
            transport: where the client is.
            session_id: for traces.
            connection: its WebRTC connection, if it has one.

        Returns:
            The call, ready to run.
        """
        from voice_agent.pipeline import build_worker
        from voice_agent.server.calls import AgentCall

        assert self.recognizer is not None, "admitted before the model was loaded"
        worker = await build_worker(
            transport,
            self.settings,
            self.recognizer,
            observers=self.observers(),
            conversation_id=session_id,
        )
        return AgentCall(
            transport, worker, connect_timeout_s=self.connect_timeout_s, connection=connection
        )

    async def close(self) -> None:
        """Free the recogniser. Idempotent."""
        self.sessions.close("the server is stopping")
        recognizer, self.recognizer = self.recognizer, None
        if recognizer is not None:
            await asyncio.to_thread(recognizer.close)
        await asyncio.to_thread(self._end_traces)


def rehearse(settings: Settings) -> None:
    """Import and build what every call will, so that what is missing is told before the first."""
    import voice_agent.pipeline
    import voice_agent.server.calls  # noqa: F401
    from voice_agent.services import build_llm, build_tts

    build_llm(settings.llm, settings.spoken_language)
    build_tts(settings.tts, settings.spoken_language or DEFAULT_LANGUAGE)


async def on_daemon_thread(function: Callable[[], T]) -> T:
    """Run a function on a thread that does not keep the process alive.

    Reading or fetching weights cannot be interrupted; whoever stops the server meanwhile must
    not wait for it, as the threads of `asyncio.to_thread` would have them do.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_outcome: Callable[[Any], None], outcome: object) -> None:
        if not future.done():
            set_outcome(outcome)

    def run() -> None:
        try:
            result = function()
        except BaseException as error:
            outcome: tuple[Callable[[Any], None], object] = (future.set_exception, error)
        else:
            outcome = (future.set_result, result)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="load", daemon=True).start()
    return await future
