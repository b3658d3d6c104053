"""The `server` group of the settings: its address, whom it serves, and by how many processes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from voice_agent.config_group import Group, matching

_IceUrl = Annotated[str, matching(r"(stuns?|turns?):.+", "a URL that starts with stun: or turn:")]


class IceServer(Group):
    """A STUN or TURN server, under the names that WebRTC uses."""

    urls: _IceUrl
    username: str | None = None
    credential: SecretStr | None = None


def _bare_url_is_an_ice_server(value: object) -> object:
    return {"urls": value} if isinstance(value, str) else value


class ServerSettings(Group):
    """The web server.

    Attributes:
        host: address to listen on; loopback unless said otherwise.
        port: TCP port; 0 picks a free one.
        ice_servers: STUN and TURN servers that both sides of a WebRTC call use; each a URL or
            a table of urls, username and credential.
        max_sessions: conversations at once; the next one is refused with 503.
        idle_timeout_s: seconds without speech from either side after which a session ends.
        keys: file of bearer keys (`voice_agent.server.keys`); None serves this machine alone.
        allowed_origins: web origins, besides the server's own, whose pages may call it; "*" for
            all.
        hosts: names that clients may call it by; none for any where there are keys, and for
            those of this machine where there are not.
        tls_certificate: PEM file of the certificate chain, to speak https and wss; None for
            http and ws, behind a proxy or on this machine.
        tls_key: PEM file of its private key, where that is another file.
        transcription_only: serve `/v1` alone: no agent, no page, and nothing of Pipecat imported.
        front_ends: processes that talk to clients, each on a core of its own, while another one
            owns the model; 0 for one process that does everything.
        event_loop: "asyncio", "uvloop" (the extra `scale`), or "auto" for uvloop where it is.
    """

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=7860, ge=0, le=65535)
    ice_servers: tuple[Annotated[IceServer, BeforeValidator(_bare_url_is_an_ice_server)], ...] = ()
    max_sessions: int = Field(default=8, ge=1)
    idle_timeout_s: float = Field(default=300.0, gt=0)
    keys: Path | None = None
    allowed_origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    transcription_only: bool = False
    front_ends: int = Field(default=0, ge=0, le=256)
    event_loop: Literal["auto", "asyncio", "uvloop"] = "auto"

    @model_validator(mode="after")
    def _a_key_is_for_a_certificate(self) -> ServerSettings:
        if self.tls_key is not None and self.tls_certificate is None:
            raise ValueError("tls_key is set but tls_certificate is not; https needs both")
        return self
