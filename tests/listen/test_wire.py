"""The messages as types, and their schema."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_agent import wire


def test_the_schema_names_every_message_of_both_directions() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "voice_agent.wire"], capture_output=True, text=True, check=True
    )
    schema = json.loads(printed.stdout)
    assert set(schema["client"]["discriminator"]["mapping"]) == {*wire.CLIENT_TYPES, "Configure"}
    assert set(schema["server"]["discriminator"]["mapping"]) == {
        "Results", "SpeechStarted", "UtteranceEnd", "Metadata", "Error", "ConfigureFailure",
        "Session", "Ack",
    }  # fmt: skip


@pytest.mark.parametrize("message", [
    wire.SpeechStarted(channel=(0, 1), timestamp=1.5),
    wire.UtteranceEnd(channel=(0, 1), last_word_end=2.0, seq=7),
    wire.Error(variant="DataError", description="no"), wire.Ack(received=3),
    wire.Session(token="t", grace_s=3.0, received=0),
], ids=lambda m: m.type)  # fmt: skip
def test_a_message_survives_the_wire(message: wire.ServerMessage) -> None:
    assert wire.parse_server(message.to_json()) == message


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
                    max_leaves=8))  # fmt: skip
def test_any_json_is_a_message_or_one_sentence(value: object) -> None:
    try:
        wire.parse_client(json.dumps(value))
    except wire.WireError as error:
        assert str(error).encode()
