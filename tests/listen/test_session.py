"""The protocol without a socket, under any order of messages and any timing of the recogniser."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.scripted import ScriptedRecognizer
from tests.support.serving import RATE, loud_vad, silence, speech
from voice_agent.server.decoding import make_decoder
from voice_agent.server.listen import ListenSession, cutting_of
from voice_agent.server.listen_query import ListenQuery
from voice_agent.server.transcription import Transcription
from voice_agent.wire import Error, Metadata, Results, ServerMessage, Session, parse_server

SCRIPT = [(0.1, "a"), (0.2, "a b"), (0.4, "a b c")]
FINALIZE = '{"type": "Finalize"}'
CLOSE = '{"type": "CloseStream"}'


@dataclass
class Rig:
    """A session over a recogniser whose events arrive when the test says so."""

    session: ListenSession
    recognizer: ScriptedRecognizer
    waiting: list[Callable[[], None]]
    texts: list[str] = field(default_factory=list)

    def settle(self) -> None:
        """Let every event of the recogniser that is due arrive."""
        reached = threading.Event()
        self.recognizer.post(reached.set)
        reached.wait()
        due, self.waiting[:] = list(self.waiting), []
        for call in due:
            call()
        self.take()

    def take(self) -> None:
        self.texts += self.session.take()

    def send(self, *messages: bytes | str) -> None:
        for message in messages:
            self.session.receive(message)

    def finish(self) -> None:
        self.send(CLOSE)
        self.settle()

    @property
    def messages(self) -> list[ServerMessage]:
        return [parse_server(text) for text in self.texts]

    def finals(self) -> list[Results]:
        return [m for m in self.messages if isinstance(m, Results) and m.is_final]

    def heard(self, channel: int = 0) -> float:
        """Seconds that the recogniser was given for segments that were finished."""
        stream = self.recognizer.opened[channel]
        return sum(s.size for s in stream.segments) / RATE


@contextmanager
def rig(query: ListenQuery | None = None, **options: Any) -> Iterator[Rig]:
    query = query or ListenQuery(interim_results=True)
    recognizer = ScriptedRecognizer(SCRIPT)
    waiting: list[Callable[[], None]] = []
    transcription = Transcription(
        recognizer,
        make_decoder(
            query.encoding, query.sample_rate, query.channels, multichannel=query.multichannel
        ),
        deliver=waiting.append,
        cutting=cutting_of(query),
        new_vad=loud_vad,
    )
    transcription.open()
    try:
        yield Rig(
            ListenSession(query, transcription, model="scripted", **options), recognizer, waiting
        )
    finally:
        transcription.close()
        recognizer.close()


audio = st.builds(
    lambda loud, ms: (speech if loud else silence)(ms / 1000).tobytes(),
    st.booleans(),
    st.integers(0, 1500),
)
steps = st.lists(
    st.one_of(audio, st.sampled_from([FINALIZE, '{"type": "KeepAlive"}', "settle", "settle"])),
    max_size=25,
)
queries = st.sampled_from(
    [
        ListenQuery(interim_results=True),
        ListenQuery(interim_results=True, vad_events=True, utterance_end_ms=1000),
        ListenQuery(endpointing_ms=None, own_endpointing=True),
        ListenQuery(endpointing_ms=100, own_endpointing=True, interim_results=True),
        ListenQuery(channels=2, multichannel=True, interim_results=True),
    ]
)


@settings(max_examples=150, deadline=None)
@given(query=queries, steps=steps)
def test_every_finalize_is_answered_and_no_sample_is_in_two_segments(
    query: ListenQuery, steps: list[bytes | str]
) -> None:
    with rig(query) as r:
        asked = 0
        sent = b""
        for step in steps:
            if step == "settle":
                r.settle()
                continue
            r.send(step)
            asked += step == FINALIZE
            sent += step if isinstance(step, bytes) else b""
        r.finish()

        assert r.session.ended is not None and r.session.ended.code == 1000
        last = r.messages[-1]
        assert isinstance(last, Metadata) and last.sha256 == hashlib.sha256(sent).hexdigest()
        assert last.duration == pytest.approx(len(sent) // (2 * query.channels) / RATE, abs=1e-3)
        for channel in range(2 if query.multichannel else 1):
            finals = [f for f in r.finals() if f.channel_index[0] == channel]
            assert sum(f.from_finalize for f in finals) == asked
            # An empty answer takes no audio: the next segment's pre-roll may reach before it.
            finals = [f for f in finals if f.duration]
            ends = [0.0]
            for final in finals:
                assert final.start >= ends[-1] - 2e-3
                ends.append(final.start + final.duration)
            # What was not reported is what close cut off without a word in it.
            reported = sum(f.duration for f in finals)
            assert reported <= r.heard(channel) + 2e-3 * (len(finals) + 1)
            assert r.heard(channel) <= last.duration + 1e-3


@settings(max_examples=60, deadline=None)
@given(steps=steps, cuts=st.lists(st.integers(0, 40_000), max_size=12))
def test_cuts_at_any_byte_change_nothing(steps: list[bytes | str], cuts: list[int]) -> None:
    def play(split: bool) -> list[dict[str, Any]]:
        with rig(ListenQuery()) as r:
            for step in steps:
                if not isinstance(step, bytes):
                    if step == FINALIZE:
                        r.send(step)
                    continue
                places = sorted({c for c in cuts if c < len(step)}) if split else []
                for a, b in zip([0, *places], [*places, len(step)], strict=True):
                    r.send(step[a:b])
            r.finish()
            found = [m.model_dump(exclude={"metadata"}) for m in r.messages]
            del found[-1]["request_id"], found[-1]["created"]
            return found

    assert play(True) == play(False)


@settings(max_examples=150, deadline=None)
@given(
    messages=st.lists(
        st.one_of(
            st.binary(max_size=2000),
            st.text(max_size=60),
            st.sampled_from(["Finalize", "CloseStream", "KeepAlive", "Received", 3]).map(
                lambda kind: json.dumps({"type": kind, "channel": 7})
            ),
            st.sampled_from([FINALIZE, CLOSE, "{}", "null", '{"type": "Finalize", "\\ud800": 1}']),
        ),
        max_size=12,
    )
)  # fmt: skip
def test_no_message_crashes_a_session_and_an_error_is_its_last_word(
    messages: list[bytes | str],
) -> None:
    with rig() as r:
        for message in messages:
            r.send(message)
            r.settle()
        kinds = [type(m) for m in r.messages]
        assert Error not in kinds[:-1] and Metadata not in kinds[:-1]
        assert (r.session.ended is not None) == (kinds[-1:] in ([Error], [Metadata]))


@settings(max_examples=150, deadline=None)
@given(query=queries, steps=steps, data=st.data())
def test_a_client_that_loses_its_connection_anywhere_misses_nothing_and_repeats_nothing(
    query: ListenQuery, steps: list[bytes | str], data: st.DataObject
) -> None:
    """The client counts as ours does: it sends again what the `Session` message does not claim."""
    outgoing = [*(s for s in steps if s != "settle"), CLOSE]
    counted = [m for m in outgoing if m != '{"type": "KeepAlive"}']
    with rig(query, token="secret", grace_s=30.0) as r:
        got: dict[int, ServerMessage] = {}

        def read() -> None:
            r.take()
            for message in map(parse_server, r.texts):
                if message.seq is not None:
                    assert message.seq not in got
                    got[message.seq] = message
            r.texts.clear()

        r.session.attached(0)
        sent = drops = 0
        while r.session.ended is None:
            if drops < 20 and data.draw(st.integers(0, 5)) == 0:
                drops += 1
                r.session.detached()
                if data.draw(st.booleans()):
                    r.settle()
                r.texts.clear()  # what was sent and not read yet is lost with the line
                r.session.attached(max(got, default=0))
                r.take()
                hello = parse_server(r.texts.pop(0))
                assert isinstance(hello, Session)
                sent = hello.received
            elif sent < len(counted):
                r.send(counted[sent])
                sent += 1
            if data.draw(st.booleans()) or sent == len(counted):
                r.settle()
            if data.draw(st.booleans()):
                read()
        read()
    with rig(query) as undisturbed:
        undisturbed.send(*counted)
        undisturbed.settle()

    def finals(messages: list[ServerMessage]) -> list[dict[str, Any]]:
        # Which of two channels comes first is a matter of time, not of the protocol.
        return sorted(
            (
                m.model_dump(exclude={"metadata", "seq"})
                for m in messages
                if isinstance(m, Results) and m.is_final
            ),
            key=lambda m: m["channel_index"][0],
        )

    assert finals([got[seq] for seq in sorted(got)]) == finals(undisturbed.messages)
    summary = got[max(got)]
    assert isinstance(summary, Metadata)
    assert summary.sha256 == undisturbed.messages[-1].sha256  # type: ignore[union-attr]


def test_a_client_that_never_says_what_it_received_is_cut_off() -> None:
    from voice_agent.server import replay

    with rig(token="secret", grace_s=30.0) as r:
        r.session.attached(0)
        r.send(*[FINALIZE] * (replay.LIMIT + 1))
        r.take()
        assert r.session.ended is not None and "Received" in r.session.ended.reason


def test_received_lets_the_server_forget() -> None:
    with rig(token="secret", grace_s=30.0) as r:
        r.session.attached(0)
        r.send(FINALIZE, FINALIZE, '{"type": "Received", "seq": 2}')
        r.take()
        r.session.detached()
        r.texts.clear()
        r.session.attached(0)
        r.take()
        assert [type(m) for m in r.messages] == [Session]


def test_every_tenth_message_is_acknowledged() -> None:
    with rig(token="secret", grace_s=30.0) as r:
        r.session.attached(0)
        r.send(*[silence(0.02).tobytes()] * 25)
        r.take()
        acks = [json.loads(t)["received"] for t in r.texts if '"Ack"' in t]
        assert acks == [10, 20]


def test_an_ordinary_client_sees_no_number_and_no_acknowledgement() -> None:
    with rig() as r:
        r.send(*[speech(0.1).tobytes()] * 25)
        r.finish()
        assert r.texts and not any('"seq"' in t or '"Ack"' in t for t in r.texts)


def test_pcm_is_what_the_recogniser_gets() -> None:
    with rig() as r:
        pcm = speech(0.5)
        r.send(pcm.tobytes(), FINALIZE)
        np.testing.assert_allclose(r.recognizer.opened[0].segments[0], pcm / 32768, atol=1e-6)
