"""What the transcription routes share: who may come in, the threads, the limits, the counts.

    admit()    who it is, or `Turned`: an answer to send instead of any work
    open()     a session on a websocket, tracked until it is over
    lease()    the same for a plain request

Routes know HTTP and their protocol; this knows neither.
"""

from __future__ import annotations

import asyncio
import math
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket

from voice_agent.engine.errors import EngineClosed, EngineFull
from voice_agent.engine.recognizer import Deliver, FinalPass, Recognizer
from voice_agent.server.access import Access, Client, Denied
from voice_agent.server.agent import Agent
from voice_agent.server.limits import StreamLimits
from voice_agent.server.listen_query import QueryError
from voice_agent.server.metrics import Metrics
from voice_agent.server.sessions import Refused
from voice_agent.server.socketless import ProtocolSession
from voice_agent.server.stream_call import StreamCall
from voice_agent.server.tracing import session_trace
from voice_agent.server.transcription import Output
from voice_agent.transcribe.segments import Score
from voice_agent.vad import Vad


class Turned(Exception):
    """A client that is turned away; the message is one sentence.

    Attributes:
        status: HTTP status.
        reason: one word for metrics.
        retry_after_s: whole seconds; None for never.
    """

    def __init__(
        self, status: int, reason: str, message: str, retry_after_s: int | None = None
    ) -> None:
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s
        super().__init__(message)

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        if self.status == 401:
            # Browsers ask for a password on "Basic", and the key is one.
            headers["WWW-Authenticate"] = 'Bearer, Basic realm="voice-agent: any name, and the key"'
        return headers


@dataclass(frozen=True, slots=True)
class Opening:
    """What a protocol is given to open a session with.

    Attributes:
        session_id: for its client.
        deliver: runs the recogniser's callbacks.
        on_output: is told the session's outputs.
    """

    session_id: str
    deliver: Deliver
    on_output: Callable[[Output], None]


class Api:
    """See the module docstring. Event loop only, but for `metrics`.

    Attributes:
        agent: whose recogniser and sessions these are.
        access: who may come in.
        metrics: counts.
        limits: of one websocket client.
        new_vad: makes a stream's VAD.
        new_token: makes the secret of a resumable session.
        files: threads for recordings, one each, as they block.
        traced: whether sessions have traces.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        access: Access | None = None,
        metrics: Metrics | None = None,
        limits: StreamLimits | None = None,
        new_vad: Callable[[], Score] = Vad,
        pool: Executor | None = None,
        new_token: Callable[[], str] = secrets.token_urlsafe,
    ) -> None:
        """Serve an agent's recogniser.

        Args:
            agent: it loads and closes the recogniser, and tracks sessions.
            access: None serves this machine alone.
            metrics: None for new ones.
            limits: None for the defaults.
            new_vad: makes a stream's VAD.
            pool: runs the sessions' work; None for threads, as many as cores.
            new_token: makes the secret of a resumable session.
        """
        self.agent = agent
        self.access = access or Access()
        self.metrics = metrics or Metrics()
        self.limits = limits or StreamLimits()
        self.new_vad = new_vad
        self.traced = agent.settings.tracing.url is not None
        # VAD and decoding let go of the GIL, so as many threads as cores are of use.
        self._pool = pool or ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="sessions")
        self.new_token = new_token
        self.files = ThreadPoolExecutor(agent.sessions.limit, thread_name_prefix="files")
        self.metrics.watch(agent.sessions, lambda: agent.recognizer)

    @property
    def recognizer(self) -> Recognizer:
        """The one that is served; there is one once somebody was admitted."""
        assert self.agent.recognizer is not None, "admitted before the model was loaded"
        return self.agent.recognizer

    @property
    def final_pass(self) -> FinalPass | None:
        """What finals come from, for whoever is transcribed here."""
        return self.agent.settings.stt.final_pass

    @property
    def lasting(self) -> Recognizer:
        """The same, whose streams outlive its process where it has one of its own."""
        lasting: Recognizer = getattr(self.recognizer, "lasting", self.recognizer)
        return lasting

    async def admit(self, connection: HTTPConnection) -> Client:
        """Decide whether to serve somebody at all.

        Raises:
            Turned: this client may not, or nobody may just now.
        """
        with self.turning():
            client = await self.access.check(connection)
            self.agent.sessions.check()
            return client

    @contextmanager
    def turning(self) -> Iterator[None]:
        """Turn what may go wrong before a session begins into `Turned`, and count it.

        Raises:
            Turned: instead of what was raised.
        """
        try:
            yield
        except Denied as error:
            raise self._turned(
                error.status, error.reason, str(error), error.retry_after_s
            ) from error
        except Refused as error:
            raise self._turned(503, "sessions", str(error), error.retry_after_s) from error
        except EngineFull as error:
            retry_s = math.ceil(error.retry_after_s)
            raise self._turned(503, "slots", "the recogniser is full", retry_s) from error
        except EngineClosed as error:
            raise self._turned(503, "engine", str(error), 5) from error
        except QueryError as error:
            raise self._turned(400, "query", str(error)) from error
        except ValueError as error:  # an option that the recogniser does not serve, named
            raise self._turned(400, "option", str(error)) from error

    def _turned(
        self, status: int, reason: str, message: str, retry_after_s: int | None = None
    ) -> Turned:
        self.metrics.refusals.labels(reason).inc()
        return Turned(status, reason, message, retry_after_s)

    @contextmanager
    def lease(self, kind: str, client: Client) -> Iterator[str]:
        """Hold one of the server's sessions and one of the client's while the block runs.

        Yields:
            The session's id, which log lines carry meanwhile.

        Raises:
            Turned: there is none.
        """
        with ExitStack() as held:
            with self.turning():
                held.enter_context(self.access.session(client))
                session = self.agent.sessions.admit(kind)
                held.callback(session.release)
            held.enter_context(session.logged())
            yield session.id

    async def open(
        self,
        kind: str,
        client: Client,
        make: Callable[[Opening], ProtocolSession],
        *,
        resumable: bool = False,
    ) -> StreamCall:
        """Open a websocket session and track it until it is over.

        Args:
            kind: protocol, for logs and metrics.
            client: who asks.
            make: opens the protocol's side; called on a thread.
            resumable: whether it outlives its connection.

        Raises:
            Turned: there is no session, slot or option for it.
        """
        counted = self.metrics.audio_s.labels(kind)

        def on_audio(seconds: float) -> None:
            counted.inc(seconds)
            self.access.heard(client, seconds)

        with ExitStack() as held, self.turning():
            held.enter_context(self.access.session(client))
            session = self.agent.sessions.admit(kind)
            held.callback(session.release)
            traced = session_trace(self.traced, kind, session.id, client.name)

            def on_output(output: Output) -> None:
                self.metrics.see(output)
                if traced is not None:
                    traced.see(output)

            with session.logged():
                call = StreamCall(
                    session_id=session.id,
                    pool=self._pool,
                    limits=self.limits,
                    resumable=resumable,
                    on_audio=on_audio,
                    on_drop=lambda reason: self.metrics.drops.labels(reason).inc(),
                )
                if traced is not None:
                    held.callback(lambda: traced.end(call.heard_s))
                await call.open(lambda deliver: make(Opening(session.id, deliver, on_output)))
            lease = held.pop_all()
            task = self.agent.sessions.start(session, call)
            task.add_done_callback(lambda _: lease.close())
        return call

    def close(self) -> None:
        """Let the threads go; sessions must be over."""
        for pool in (self._pool, self.files):
            pool.shutdown(wait=False, cancel_futures=True)


async def deny(ws: WebSocket, response: Response) -> None:
    """Answer a websocket's handshake with an HTTP response."""
    await ws.send_denial_response(response)
    # Uvicorn logs an error for a denial whose app returns before the connection is closed.
    await asyncio.sleep(0)
