"""https and wss with a certificate of one's own."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import ssl
from pathlib import Path

import pytest
import websockets
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.scripted import ScriptedRecognizer
from tests.support.serving import eventually
from voice_agent.config import Settings, load_settings
from voice_agent.config_errors import ConfigError
from voice_agent.server.agent import Agent
from voice_agent.server.listening import bind, tls_options
from voice_agent.server.serve import _serve


def certificate(folder: Path, password: bytes | None = None) -> tuple[Path, Path]:
    """A certificate for localhost and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    chain, private = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    return chain, private


def settings(chain: Path, key: Path | None) -> Settings:
    return load_settings(overrides={"server.tls_certificate": chain, "server.tls_key": key})


async def test_a_client_that_trusts_the_certificate_is_served(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path)
    agent = Agent(settings(chain, key), load=lambda _: ScriptedRecognizer())
    sock = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    ready = asyncio.Event()
    serving = asyncio.create_task(_serve(agent, sock, lambda _: ready.set(), 1.0))
    await eventually(lambda: ready.is_set() or serving.done())
    query = "encoding=linear16&sample_rate=16000"
    async with websockets.connect(
        f"wss://localhost:{port}/v1/listen?{query}",
        ssl=ssl.create_default_context(cafile=str(chain)),
        host="127.0.0.1",
    ) as ws:
        await ws.send('{"type": "CloseStream"}')
        assert '"Metadata"' in str(await ws.recv())
    os.kill(os.getpid(), signal.SIGTERM)
    assert await serving == 0


@pytest.mark.parametrize("broken", ["missing", "no PEM", "another key", "a password"])
def test_what_cannot_be_used_is_said_with_its_file(tmp_path: Path, broken: str) -> None:
    chain, key = certificate(tmp_path, b"secret" if broken == "a password" else None)
    if broken == "missing":
        chain.unlink()
    elif broken == "no PEM":
        chain.write_text("hello")
    elif broken == "another key":
        (tmp_path / "other").mkdir()
        _, key = certificate(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"chain\.pem"):
        tls_options(settings(chain, key).server)


def test_a_key_alone_is_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tls_certificate is not"):
        load_settings(overrides={"server.tls_key": tmp_path / "key.pem"})
