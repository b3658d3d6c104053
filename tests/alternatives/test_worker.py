"""The threads and streams around a session, with a session that does as it is told."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from tests.support.collect import Collector
from voice_agent.alternatives.errors import SystemFailed
from voice_agent.alternatives.worker import Decoded, WorkerRecognizer
from voice_agent.engine.errors import BadAudio, EngineClosed, EngineFull, StreamClosed
from voice_agent.engine.recognizer import Failed, Recognizer, StreamOptions

SECOND = np.full(16_000, 0.5, np.float32)


@dataclass
class Counting:
    """Says how many samples it was given; `gate` holds its first call back."""

    options: StreamOptions
    heard: object
    gate: threading.Event | None = None
    entered: threading.Event = field(default_factory=threading.Event)
    samples: int = 0
    calls: int = 0
    cancelled: bool = False

    def feed(self, pcm):
        self.entered.set()
        if self.gate is not None:
            assert self.gate.wait(10)
        self.calls += 1
        self.samples += pcm.size
        self.heard(Decoded(f"partial {self.samples}"))

    def finish(self, rest):
        self.samples += rest.size
        return Decoded(f"final {self.samples}", language="kn")

    def cancel(self):
        self.cancelled = True


@pytest.fixture
def made():
    """Makes recognisers of counting sessions and closes them; `.sessions` is what they opened."""

    class Made:
        sessions: list[Counting]

        def __init__(self):
            self.sessions, self.recognizers = [], []

        def __call__(self, session=Counting, **options):
            def open_session(stream_options, heard):
                self.sessions.append(session(stream_options, heard))
                return self.sessions[-1]

            made = WorkerRecognizer("counting", open_session, streaming=True, **options)
            self.recognizers.append(made)
            return made

    made = Made()
    yield made
    for recognizer in made.recognizers:
        recognizer.close()


def test_it_keeps_the_protocol(made):
    assert isinstance(made(), Recognizer)


def test_every_sample_is_heard_and_one_final_comes(made):
    got = Collector()
    stream = made().open(got)
    for n in (1, 700, 15_299):
        stream.feed(np.zeros(n, np.float32))
    stream.finish()
    final = got.final()
    assert (final.text, final.language, final.audio_s) == ("final 16000", "kn", 1.0)
    assert final.decode_ms >= 0
    assert [p.text for p in got.partials] == sorted({p.text for p in got.partials}, key=len)


def test_audio_after_finish_belongs_to_the_next_segment(made):
    got = Collector()
    stream = made().open(got)
    stream.feed(SECOND)
    stream.finish()
    stream.feed(SECOND[:100])
    stream.finish()
    assert [got.final().text, got.final().text] == ["final 16000", "final 100"]
    assert len(made.sessions) == 2


def test_a_segment_without_audio_has_an_empty_final_and_costs_no_session(made):
    got = Collector()
    stream = made().open(got)
    stream.finish()
    assert got.final().text == ""
    assert made.sessions == []


def test_cancel_emits_nothing_of_its_segment_even_while_it_is_being_decoded(made):
    gate = threading.Event()
    got = Collector()
    stream = made(lambda o, h: Counting(o, h, gate)).open(got)
    stream.feed(SECOND)
    while not made.sessions:
        pass
    assert made.sessions[0].entered.wait(10)
    stream.cancel()
    gate.set()
    stream.feed(SECOND[:7])
    stream.finish()
    assert got.final().text == "final 7"
    # The partial of the next segment may be there; nothing of the cancelled one is.
    assert {p.text for p in got.partials} <= {"partial 7"}
    assert made.sessions[0].cancelled


def test_waiting_audio_reaches_the_session_as_one_piece(made):
    gate = threading.Event()
    got = Collector()
    stream = made(lambda o, h: Counting(o, h, gate)).open(got)
    stream.feed(SECOND)
    while not made.sessions:
        pass
    assert made.sessions[0].entered.wait(10)
    for _ in range(50):
        stream.feed(SECOND[:10])
    stream.finish()
    gate.set()
    assert got.final().text == "final 16500"
    assert made.sessions[0].calls == 1


def test_a_stream_that_owes_a_final_goes_before_one_that_only_wants_partials(made):
    gate = threading.Event()
    order = []

    class Noting(Counting):
        def feed(self, pcm):
            super().feed(pcm)
            order.append(f"feed {self.options.language}")

        def finish(self, rest):
            order.append(f"finish {self.options.language}")
            return super().finish(rest)

    recognizer = made(lambda o, h: Noting(o, h, gate))
    busy, talking, done = (
        (got, recognizer.open(got, options=StreamOptions(language=name)))
        for got, name in ((Collector(), "busy"), (Collector(), "talking"), (Collector(), "done"))
    )
    busy[1].feed(SECOND)
    while not made.sessions:
        pass
    assert made.sessions[0].entered.wait(10)
    talking[1].feed(SECOND)
    done[1].feed(SECOND)
    done[1].finish()
    gate.set()
    done[0].final()
    assert order[:2] == ["feed busy", "finish done"]


def test_partials_can_be_switched_off(made):
    got = Collector()
    stream = made().open(got, options=StreamOptions(partials=False))
    stream.feed(SECOND)
    stream.finish()
    got.final()
    assert got.partials == []


def test_slots_are_limited_and_come_back(made):
    recognizer = made(slots=1)
    first = recognizer.open(Collector())
    with pytest.raises(EngineFull):
        recognizer.open(Collector())
    first.close()
    first.close()
    recognizer.open(Collector())


def test_what_a_session_raises_ends_its_own_stream_alone(made):
    class Broken(Counting):
        def finish(self, rest):
            if self.options.language == "xx":
                raise OSError("the disk is on fire")
            return super().finish(rest)

    recognizer = made(Broken)
    bad, good = Collector(), Collector()
    breaks = recognizer.open(bad, options=StreamOptions(language="xx"))
    works = recognizer.open(good)
    for stream in (breaks, works, breaks):
        stream.feed(SECOND)
        stream.finish()
    assert good.final().text == "final 16000"
    end = bad.end()
    assert isinstance(end, Failed)
    assert isinstance(end.error, SystemFailed)
    assert "the disk is on fire" in str(end.error)
    recognizer.close()
    assert [type(e) for e in bad.events if not hasattr(e, "text")] == [Failed]  # the last, and once


def test_closing_the_recogniser_tells_open_streams(made):
    recognizer = made()
    got = Collector()
    stream = recognizer.open(got)
    recognizer.close()
    recognizer.close()
    end = got.end()
    assert isinstance(end, Failed)
    assert isinstance(end.error, EngineClosed)
    with pytest.raises(EngineClosed):
        recognizer.open(got)
    stream.close()


def test_wrong_use_is_refused_by_name(made):
    recognizer = made(languages=("en", "kn"), right_contexts=(0, 1))
    for options, words in (
        (StreamOptions(language="de"), "not 'de'"),
        (StreamOptions(right_context=5), "right_context 5"),
        (StreamOptions(extra={"beam": 4}), "'beam'"),
    ):
        with pytest.raises(ValueError, match=words):
            recognizer.open(Collector(), options=options)
    stream = recognizer.open(Collector(), options=StreamOptions(language="kn-IN", right_context=1))
    with pytest.raises(BadAudio):
        stream.feed(np.zeros((2, 2), np.float32))
    stream.close()
    with pytest.raises(StreamClosed):
        stream.feed(SECOND)


def test_several_workers_serve_several_streams_at_once(made):
    barrier = threading.Barrier(3)

    class Meeting(Counting):
        def finish(self, rest):
            barrier.wait(10)  # nobody gets past it alone
            return super().finish(rest)

    recognizer = made(Meeting, workers=3)
    collectors = [Collector() for _ in range(3)]
    for got in collectors:
        stream = recognizer.open(got)
        stream.feed(SECOND)
        stream.finish()
    assert [got.final().text for got in collectors] == ["final 16000"] * 3
