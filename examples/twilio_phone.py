"""A telephone number for the agent, through Twilio: 8 kHz mu-law either way.

export TWILIO_ACCOUNT_SID=AC... TWILIO_AUTH_TOKEN=...
python examples/twilio_phone.py agent.example.com

The name is the one under which a proxy with TLS serves port 8080. Set the number's webhook for
incoming calls to https://agent.example.com/ (POST). Twilio is answered with the address of a
websocket and a ticket for it, and connects there with the caller's audio:
https://www.twilio.com/docs/voice/media-streams/websocket-messages
"""

import asyncio
import base64
import hashlib
import hmac
import os
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response, WebSocket
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.workers.runner import WorkerRunner

from voice_agent.config import Settings, load_settings
from voice_agent.pipeline import build_worker, load_shared_recognizer

TWIML = """<?xml version="1.0" encoding="UTF-8"?>
<Response><Connect><Stream url="wss://{host}/media"><Parameter name="ticket" value="{ticket}"/>
</Stream></Connect></Response>"""


def signature(url: str, form: Mapping[str, str], token: str) -> str:
    """What Twilio writes into X-Twilio-Signature."""
    signed = url + "".join(name + form[name] for name in sorted(form))
    digest = hmac.new(token.encode(), signed.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def same(secret: str, given: object) -> bool:
    return hmac.compare_digest(secret.encode(), str(given).encode())


def make_app(
    settings: Settings,
    host: str,
    account: str,
    token: str,
    *,
    load=load_shared_recognizer,
    api: str = "https://api.twilio.com",
) -> FastAPI:
    ticket = secrets.token_urlsafe()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.recognizer = await load(settings)  # before the first call
        yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/")
    async def incoming(request: Request) -> Response:
        form = {name: str(value) for name, value in (await request.form()).items()}
        expected = signature(f"https://{host}/", form, token)
        if not same(expected, request.headers.get("X-Twilio-Signature")):
            raise HTTPException(403, "not signed by Twilio with this account's token")
        return Response(TWIML.format(host=host, ticket=ticket), media_type="text/xml")

    @app.websocket("/media")
    async def media(ws: WebSocket) -> None:
        await ws.accept()
        try:
            async with asyncio.timeout(10):
                _, call = await parse_telephony_websocket(ws)
        except (TimeoutError, ValueError):  # it said nothing, or nothing that Twilio would say
            await ws.close(1008, "a stream begins with its start message")
            return
        if not same(ticket, call.body.get("ticket")):
            await ws.close(1008, "this stream was not announced by the webhook")
            return
        serializer = TwilioFrameSerializer(  # hangs up by `api` when the agent ends the call
            call.stream_id, call.call_id, account, token, base_url=api
        )
        transport = FastAPIWebsocketTransport(
            ws,
            FastAPIWebsocketParams(
                audio_in_enabled=True, audio_out_enabled=True, serializer=serializer
            ),
        )
        worker = await build_worker(transport, settings, app.state.recognizer)
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        await runner.run()

    return app


if __name__ == "__main__":
    account, token = os.environ["TWILIO_ACCOUNT_SID"], os.environ["TWILIO_AUTH_TOKEN"]
    settings = load_settings(overrides={"greeting": "Hello. What can I do for you?"})
    uvicorn.run(make_app(settings, sys.argv[1], account, token), port=8080)
