"""`WS /v1/realtime?intent=transcription`: OpenAI's realtime transcription.

Whoever is turned away gets an HTTP answer instead of a websocket, in OpenAI's shape.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.websockets import WebSocket

from voice_agent.engine.recognizer import FinalPass, StreamOptions
from voice_agent.server.access import answer_to
from voice_agent.server.api import Api, Opening, Turned, deny
from voice_agent.server.decoding import make_decoder
from voice_agent.server.files import answer, check_model
from voice_agent.server.realtime import RealtimeSession, cutting_of, encoding_of
from voice_agent.server.realtime_wire import AudioInput
from voice_agent.server.transcription import Transcription

KIND = "realtime"


def routes(api: Api) -> APIRouter:
    """The route of the module docstring."""
    router = APIRouter(tags=["transcription"])

    def make(opening: Opening) -> RealtimeSession:
        recognizer = api.recognizer

        def make_core(audio: AudioInput) -> Transcription:
            core = Transcription(
                recognizer,
                make_decoder(*encoding_of(audio)),
                deliver=opening.deliver,
                cutting=cutting_of(audio),
                new_vad=api.new_vad,
                options=_options(audio, api.final_pass),
            )
            core.open()
            return core

        return RealtimeSession(
            make_core,
            lambda name: check_model(name, recognizer.name),
            model=recognizer.name,
            session_id=opening.session_id,
            on_output=opening.on_output,
        )

    @router.websocket("/v1/realtime")
    async def realtime(ws: WebSocket) -> None:
        try:
            client = await api.admit(ws)
            _check_query(ws, api.recognizer.name)
            call = await api.open(KIND, client, make)
        except Turned as turned:
            await deny(ws, answer(turned))
            return
        await call.attach(ws, subprotocol=answer_to(ws.headers))

    return router


def _options(audio: AudioInput, final_pass: FinalPass | None) -> StreamOptions:
    wanted = audio.transcription
    extra = {"phrases": dict.fromkeys(wanted.keywords)} if wanted.keywords else {}
    return StreamOptions(language=wanted.language, final_pass=final_pass, extra=extra)


def _check_query(ws: WebSocket, served: str) -> None:
    for name, value in ws.query_params.multi_items():
        if name == "model":
            try:
                check_model(value, served)
            except ValueError as error:
                raise Turned(404, "model_not_found", str(error)) from error
        elif name != "intent":
            raise Turned(400, name, f"{name} is not served here; known are intent and model")
    if ws.query_params.get("intent") != "transcription":
        raise Turned(400, "intent", "this server transcribes: ask with ?intent=transcription")
