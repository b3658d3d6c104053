"""`WS /v1/listen`: Deepgram's streaming protocol, and resumption for those who ask for it.

    ?resume=true                     a new session; its first message holds a token
    ?resume=TOKEN&received=SEQ       the same session on a new connection

Whoever is turned away gets an HTTP answer instead of a websocket, in Deepgram's shape.
"""

from __future__ import annotations

import logging
import uuid

from fastapi import APIRouter
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from voice_agent.engine.recognizer import FinalPass, StreamOptions
from voice_agent.server.access import Client, answer_to
from voice_agent.server.api import Api, Opening, Turned, deny
from voice_agent.server.decoding import make_decoder
from voice_agent.server.listen import ListenSession, cutting_of
from voice_agent.server.listen_query import ListenQuery, QueryError, parse_query
from voice_agent.server.stream_call import StreamCall
from voice_agent.server.transcription import Transcription

KIND = "listen"


def _without_secrets(record: logging.LogRecord) -> bool:
    """Keep keys and tokens out of what uvicorn logs.

    Its lines name the URL, and ours may hold a token; its debug lines are whole handshakes.
    """
    if isinstance(record.args, tuple):
        record.args = tuple(
            arg.partition("?")[0] if isinstance(arg, str) else arg for arg in record.args
        )
    return record.levelno > logging.DEBUG


def options_of(query: ListenQuery, final_pass: FinalPass | None) -> StreamOptions:
    """What of a query, and of what the server does for all, the recogniser has to do."""
    extra = {"phrases": dict(query.phrases)} if query.phrases else {}
    return StreamOptions(
        language=query.language,
        right_context=query.right_context,
        partials=query.interim_results,
        final_pass=final_pass,
        extra=extra,
    )


def routes(api: Api) -> APIRouter:
    """The route of the module docstring."""
    logging.getLogger("uvicorn.error").addFilter(_without_secrets)
    router = APIRouter(tags=["transcription"])
    resumable: dict[str, tuple[str, StreamCall]] = {}  # token -> (client, call)

    async def begin(client: Client, query: ListenQuery) -> StreamCall:
        token = api.new_token() if query.resumable else None

        def make(opening: Opening) -> ListenSession:
            recognizer = api.lasting if query.resumable else api.recognizer
            transcription = Transcription(
                recognizer,
                make_decoder(
                    query.encoding,
                    query.sample_rate,
                    query.channels,
                    multichannel=query.multichannel,
                ),
                deliver=opening.deliver,
                cutting=cutting_of(query),
                new_vad=api.new_vad,
                options=options_of(query, api.final_pass),
            )
            try:
                transcription.open()
            except ValueError as error:
                if query.phrases:
                    raise QueryError(f"{error}; keyterm and keywords ask for 'phrases'") from error
                raise
            return ListenSession(
                query,
                transcription,
                model=recognizer.name,
                session_id=opening.session_id,
                token=token,
                grace_s=api.limits.grace_s,
                on_output=opening.on_output,
            )

        call = await api.open(KIND, client, make, resumable=query.resumable)
        if token is not None:
            resumable[token] = (client.name, call)
            call.when_over(lambda: resumable.pop(token, None))
        return call

    def come_back(client: Client, token: str, received: str) -> tuple[StreamCall, int]:
        name, call = resumable.get(token, ("", None))
        if call is None or call.over or name != client.name:
            raise Turned(
                404, "token", "this token is not known or its time is over; begin a new session"
            )
        if not (received.isascii() and received.isdecimal() and len(received) < 16):
            raise QueryError(f"received is the seq of the last event, got {received[:40]!r}")
        return call, int(received)

    @router.websocket("/v1/listen")
    async def listen(ws: WebSocket) -> None:
        try:
            token = ws.query_params.get("resume", "false")
            if token.lower() in ("true", "false"):
                client = await api.admit(ws)
                with api.turning():
                    query = parse_query(ws.query_params.multi_items(), model=api.recognizer.name)
                call = await begin(client, query)
                seq = 0
            else:
                with api.turning():
                    client = await api.access.check(ws)
                    call, seq = come_back(client, token, ws.query_params.get("received", "0"))
        except Turned as turned:
            await deny(ws, _answer(turned))
            return
        await call.attach(
            ws,
            received=seq,
            subprotocol=answer_to(ws.headers),
            headers=[(b"dg-request-id", call.id.encode())],
        )

    return router


def _answer(turned: Turned) -> JSONResponse:
    body = {
        "err_code": turned.reason.upper(),
        "err_msg": str(turned),
        "request_id": str(uuid.uuid4()),
    }
    headers = {**turned.headers, "dg-error": str(turned).encode("ascii", "replace").decode()}
    return JSONResponse(body, status_code=turned.status, headers=headers)
