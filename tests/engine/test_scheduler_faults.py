"""Streams, callers and devices that misbehave: what they cost the others."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from tests.engine.fakes import CHUNKS, AheadRunner, FakeRunner, level, opened, run, scheduler
from tests.support.collect import Collector
from voice_agent.engine import EngineClosed, Failed, Final, StreamClosed, StreamOptions
from voice_agent.engine.emissions import Emissions
from voice_agent.engine.recognizer import deliver_here


def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_stream_fed_faster_than_it_is_spoken_gets_what_others_leave():
    """A lane a step: the recording has its turns at twice its pace, the live stream between."""
    runner = FakeRunner()
    engine = scheduler(runner, max_batch=1)
    (recording, _), (live, _) = opened(engine), opened(engine)
    recording.feed(level(0.1, 200 + 9 * 1280))
    engine.clock.now += 0.1
    live.feed(level(0.1, 200 + 1280))
    run(engine)
    order = [slots[0] for slots, *_ in runner.steps]
    first = recording.slot
    assert order[:6] == [first, first, first, live.slot, first, live.slot]
    assert order[6:] == [first] * 6, "and nobody holds it up when it is alone"


def test_a_stream_that_is_never_fed_costs_no_step():
    runner = FakeRunner()
    engine = scheduler(runner)
    opened(engine)
    stream, events = opened(engine)
    stream.feed(level(0.1, 200))
    run(engine)
    assert [slots for slots, *_ in runner.steps] == [[stream.slot]]


def test_a_stream_fed_from_two_threads_harms_nobody():
    runner = AheadRunner()
    engine = scheduler(runner)
    engine.start("test-engine")
    heard, beside = Collector(), Collector()
    shared = engine.open(heard, deliver_here, StreamOptions(partials=False), 0)
    other = engine.open(beside, deliver_here, StreamOptions(partials=False), 0)

    def feed() -> None:
        for _ in range(200):
            shared.feed(level(0.2, 500))
            shared.feed((level(0.2, 500) * 32768).astype(np.int16))

    threads = [threading.Thread(target=feed) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        other.feed(level(0.5))
    for thread in threads:
        thread.join()
    shared.finish()
    other.finish()
    assert heard.final().audio_s == 2 * 200 * 1000 / 16000
    assert set(beside.final().tokens) <= {500, 0}  # 0: of the flush
    assert set(heard.finals[0].tokens) <= {200, 0}
    engine.stop()


def test_closing_from_two_threads_frees_the_slot_once():
    engine = scheduler(FakeRunner(), slots=2)
    stream, _ = opened(engine)
    threads = [threading.Thread(target=stream.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run(engine)
    assert engine.stats.open_streams == 0
    assert len({opened(engine)[0].slot for _ in range(2)}) == 2


@pytest.mark.parametrize("leave", ["close", "cancel"])
@pytest.mark.parametrize("runner", [FakeRunner, AheadRunner])
def test_what_a_step_says_of_a_segment_that_was_left_is_told_to_nobody(runner, leave):
    runner = runner()
    engine = scheduler(runner, slots=1)
    stream, events = opened(engine)
    newcomer = []

    def during() -> None:
        runner.during = None
        getattr(stream, leave)()
        engine.take_requests(wait=False)
        if leave == "close":
            newcomer.append(opened(engine))
            engine.take_requests(wait=False)

    runner.during = during
    stream.feed(level(0.7, 200))
    run(engine)
    assert events == []
    after, heard = newcomer[0] if newcomer else (stream, events)
    after.feed(level(0.2, 200))
    after.finish()
    run(engine)
    (final,) = (e for e in heard if isinstance(e, Final))
    assert 700 not in final.tokens and 200 in final.tokens
    assert final.audio_s == 200 / 16000


def test_steps_are_launched_ahead_and_told_in_order():
    runner = AheadRunner()
    engine = scheduler(runner)
    stream, events = opened(engine)
    for value in (0.1, 0.2, 0.3, 0.4):
        stream.feed(level(value))
    stream.finish()
    run(engine)
    assert runner.most == 2 and not runner.flying
    *partials, final = events
    assert [len(p.tokens) for p in partials] == list(range(1, len(partials) + 1))
    assert all(final.tokens[: len(p.tokens)] == p.tokens for p in partials)
    assert len(final.tokens) == CHUNKS[0].total(4 * 1280)


def test_a_flood_of_requests_does_not_stop_the_steps(monkeypatch):
    monkeypatch.setattr("voice_agent.engine.scheduler._REQUESTS_A_TURN", 10)
    runner = FakeRunner()
    engine = scheduler(runner)
    flood, events = opened(engine)
    stream, _ = opened(engine)
    stream.feed(level(0.1, 200))
    for _ in range(35):
        flood.finish()
    engine.take_requests(wait=False)
    engine.tick()
    assert len(runner.steps) == 1 and len(events) < 35
    for _ in range(4):
        engine.take_requests(wait=True)
        engine.tick()
    assert len(events) == 35


def test_second_passes_of_many_streams_share_their_steps():
    runner = AheadRunner()
    engine = scheduler(runner)
    both = [opened(engine, final_pass="full") for _ in range(2)]
    for stream, _ in both:
        stream.feed(level(0.1, 20_000))
    run(engine)
    for stream, _ in both:
        stream.finish()
        stream.feed(level(0.6, 3000))  # the next segment's
    runner.steps.clear()
    run(engine)
    wide = [slots for slots, _, right in runner.steps if right == 6]
    assert wide == [[0, 1]] * CHUNKS[6].total(20_000)
    for stream, events in both:
        stream.finish()
        run(engine)
        first, second = (e for e in events if isinstance(e, Final))
        assert max(first.tokens) == 100 and first.audio_s == 20_000 / 16_000
        assert max(second.tokens) == 600 and second.audio_s == 3000 / 16_000


def test_a_stream_that_left_during_its_second_pass_is_forgotten():
    runner = FakeRunner()
    engine = scheduler(runner)
    stream, events = opened(engine, final_pass="full", partials=False)
    stream.feed(level(0.1, 40_000))
    stream.finish()
    engine.take_requests(wait=False)
    engine.tick()
    stream.close()
    run(engine)
    assert events == []
    assert len(runner.steps) == 1


def test_a_loop_that_is_gone_is_counted_and_the_others_hear():
    def gone(dispatch):
        raise RuntimeError("Event loop is closed")

    engine = scheduler(FakeRunner())
    lost, _ = opened(engine, deliver=gone)
    stream, events = opened(engine)
    lost.feed(level(0.1, 200))
    stream.feed(level(0.1, 200))
    run(engine)
    assert engine.stats.undelivered == 1
    assert len(events) == 1


class OutOfMemoryError(RuntimeError):
    """Has torch's name, and is known by it."""


def test_a_device_that_is_out_of_memory_says_what_to_do():
    runner = FakeRunner()

    def explode() -> None:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    runner.during = explode
    engine = scheduler(runner)
    both = [opened(engine) for _ in range(2)]
    for stream, _ in both:
        stream.feed(level(0.1, 200))
    engine.start("test-engine")
    engine._thread.join(timeout=30)
    advice = r"out of memory in a step of 2 streams; restart with fewer --slots \(they are 3\)"
    for _, events in both:
        (failed,) = events
        assert isinstance(failed, Failed)
        with pytest.raises(EngineClosed, match=advice) as raised:
            raise failed.error
        assert isinstance(raised.value.__cause__, OutOfMemoryError)
    with pytest.raises(EngineClosed, match=advice):
        opened(engine)


def test_an_idle_engine_shows_that_it_lives_and_a_stuck_device_that_it_does_not(monkeypatch):
    monkeypatch.setattr("voice_agent.engine.scheduler.IDLE_S", 0.01)
    runner = FakeRunner()
    stuck, release = threading.Event(), threading.Event()

    def hang() -> None:
        stuck.set()
        assert release.wait(30)

    runner.during = hang
    engine = scheduler(runner)
    engine.clock = time.monotonic
    assert engine.stats.heartbeat == 0
    engine.start("test-engine")
    for _ in range(3):
        seen = engine.stats.heartbeat
        wait_until(lambda seen=seen: engine.stats.heartbeat > seen)
    stream, _ = opened(engine)
    stream.feed(level(0.1, 200))
    assert stuck.wait(30)
    seen = engine.stats.heartbeat
    time.sleep(0.1)
    assert engine.stats.heartbeat == seen
    release.set()
    wait_until(lambda: engine.stats.heartbeat > seen)
    engine.stop()


def test_no_feed_is_slept_through(monkeypatch):
    """The engine sleeps for good between two chunks; a lost wake-up would hang here."""
    monkeypatch.setattr("voice_agent.engine.scheduler.IDLE_S", 3600.0)
    engine = scheduler(FakeRunner())
    engine.start("test-engine")
    heard = [Collector(), Collector()]
    streams = [engine.open(h, deliver_here, StreamOptions(), 0) for h in heard]

    def talk(stream, collector) -> None:
        for chunk in range(300):
            stream.feed(level(0.1, 1280 if chunk else 200))
            collector.wait_for_partial(timeout=30)

    failures = []

    def caught(*args) -> None:
        try:
            talk(*args)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=caught, args=a) for a in zip(streams, heard, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.stop()
    assert not failures


def test_the_runners_own_buffer_and_limit_are_used():
    class Own(FakeRunner):
        max_batch = 2
        given: list[np.ndarray] = []
        dtype = np.float32

        def staging(self, lanes, window):
            self.given.append(np.full((lanes, window), 7, self.dtype))
            return self.given[-1]

        def step(self, slots, pos, pcm, right):
            assert pcm is self.given[-1] or pcm.dtype == np.float32
            return super().step(slots, pos, pcm, right)

    for dtype in (np.float32, np.int16):
        runner = Own()
        runner.dtype = dtype
        engine = scheduler(runner)
        streams = [opened(engine) for _ in range(3)]
        for stream, _ in streams:
            stream.feed((level(0.25, 3000) * 32768).astype(np.int16))
            stream.finish()
        run(engine)
        assert max(len(slots) for slots, *_ in runner.steps) == 2
        for _, events in streams:
            assert set(events[-1].tokens) <= {250, 0} and 250 in events[-1].tokens
        streams[0][0].feed(level(0.5, 3000))  # float32 cannot go into int16
        streams[0][0].finish()
        run(engine)
        assert 500 in streams[0][1][-1].tokens


def test_backlog_tells_what_is_not_computed_yet():
    runner = FakeRunner()
    engine = scheduler(runner)
    stream, _ = opened(engine)
    stream.feed(level(0.1, 200 + 10 * 1280))
    engine.take_requests(wait=False)
    engine.tick()
    assert engine.stats.backlog_s == pytest.approx((200 + 9 * 1280) / 16000)
    engine.clock.now += 1
    run(engine)
    engine.clock.now += 1
    stream.feed(level(0.1))
    run(engine)
    assert engine.stats.backlog_s < 0.1


def test_after_close_nothing_is_taken_even_on_the_short_way():
    engine = scheduler(FakeRunner())
    stream, _ = opened(engine)
    pcm = np.zeros(2000, np.int16)
    for _ in range(3):
        stream.feed(pcm)
    stream.close()
    with pytest.raises(StreamClosed):
        stream.feed(pcm)


def test_after_the_engines_death_the_short_way_says_why():
    engine = scheduler(FakeRunner())
    stream, _ = opened(engine)
    pcm = np.zeros(2000, np.int16)
    for _ in range(3):
        stream.feed(pcm)
    engine.start("test-engine")
    engine.stop()
    with pytest.raises(EngineClosed, match="was closed"):
        stream.feed(pcm)


def test_no_token_at_all_is_an_empty_final():
    class Silent(FakeRunner):
        def step(self, slots, pos, pcm, right):
            super().step(slots, pos, pcm, right)
            return Emissions.by_lane([([], [], [])] * len(slots))

    engine = scheduler(Silent())
    stream, events = opened(engine)
    stream.feed(level(0.1, 5000))
    stream.finish()
    run(engine)
    assert [(type(e), e.text, e.tokens, e.words) for e in events] == [(Final, "", (), ())]
