"""The protocol without a socket, under any order of messages and any timing of the recogniser."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.scripted import ScriptedRecognizer
from tests.support.serving import loud_vad, silence, speech
from voice_agent.server.decoding import make_decoder
from voice_agent.server.realtime import RealtimeSession, cutting_of, encoding_of
from voice_agent.server.realtime_wire import AudioInput
from voice_agent.server.transcription import Transcription

SCRIPT = [(0.1, "a"), (0.2, "a b"), (0.4, "a b c")]
RATE = 24_000
TRANSCRIPTION = "conversation.item.input_audio_transcription."


class Rig:
    """A session over a recogniser whose events arrive when the test says so."""

    def __init__(self) -> None:
        self.recognizer = ScriptedRecognizer(SCRIPT)
        self.waiting: list[Callable[[], None]] = []
        self.session = RealtimeSession(self._core, lambda _: None, model="scripted")
        self.messages: list[dict[str, Any]] = []

    def _core(self, audio: AudioInput) -> Transcription:
        core = Transcription(
            self.recognizer,
            make_decoder(*encoding_of(audio)),
            deliver=self.waiting.append,
            cutting=cutting_of(audio),
            new_vad=loud_vad,
        )
        core.open()
        return core

    def settle(self) -> None:
        reached = threading.Event()
        self.recognizer.post(reached.set)
        reached.wait()
        due, self.waiting[:] = list(self.waiting), []
        for call in due:
            call()
        self.messages += map(json.loads, self.session.take())

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [m for m in self.messages if m["type"] == kind]

    def close(self) -> None:
        self.session.close()
        self.recognizer.close()


def message(kind: str, **fields: object) -> str:
    return json.dumps({"type": kind, **fields})


def append(loud: bool, ms: int) -> str:
    pcm = (speech if loud else silence)(ms / 1000, RATE)
    return message("input_audio_buffer.append", audio=base64.b64encode(pcm.tobytes()).decode())


def update(**fields: object) -> str:
    session = {"type": "transcription", "audio": {"input": fields}}
    return message("session.update", session=session)


steps = st.lists(
    st.one_of(
        st.builds(append, st.booleans(), st.integers(0, 1200)),
        st.sampled_from(
            [
                message("input_audio_buffer.commit"),
                message("input_audio_buffer.clear"),
                update(turn_detection=None),
                update(turn_detection={"type": "server_vad", "silence_duration_ms": 200}),
                update(transcription={"language": "en"}),
                "settle",
                "settle",
                "settle",
            ]
        ),
    ),
    max_size=25,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_every_committed_item_is_completed_once_in_order_and_its_deltas_are_its_text(
    steps: list[str],
) -> None:
    rig = Rig()
    try:
        for step in steps:
            if step == "settle":
                rig.settle()
            else:
                rig.session.receive(step)
        rig.session.finish()
        rig.settle()
        assert rig.session.ended is not None and rig.session.ended.code == 1000
        committed = [m["item_id"] for m in rig.of("input_audio_buffer.committed")]
        completed = rig.of(TRANSCRIPTION + "completed")
        assert [m["item_id"] for m in completed] == committed
        assert len(set(committed)) == len(committed)
        previous = [m["previous_item_id"] for m in rig.of("input_audio_buffer.committed")]
        assert previous == [None, *committed][: len(previous)]
        for done in completed:
            deltas = [
                m["delta"]
                for m in rig.of(TRANSCRIPTION + "delta")
                if m["item_id"] == done["item_id"]
            ]
            assert "".join(deltas) == done["transcript"]
        known = {"segment_open", "input_audio_buffer_commit_empty"}
        assert {m["error"]["code"] for m in rig.of("error")} <= known
    finally:
        rig.close()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.text(max_size=60),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(
                            ["type", "session", "audio", "input", "format", "event_id"]
                        ),
                        inner | st.sampled_from(["session.update", "transcription", "audio/pcm"]),
                    )
                ),
                max_leaves=12,
            ).map(json.dumps),
        ),
        max_size=8,
    )
)
def test_no_message_crashes_a_session_or_ends_it(messages: list[bytes | str]) -> None:
    rig = Rig()
    try:
        for each in messages:
            rig.session.receive(each)
            rig.settle()
        assert rig.session.ended is None
        kinds = {m["type"] for m in rig.messages}
        assert kinds <= {"session.created", "session.updated", "error"}
    finally:
        rig.close()
