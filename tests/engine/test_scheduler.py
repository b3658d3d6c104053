"""The scheduler on a fake device and a fake clock: no torch, no thread, no sleep."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engine.fakes import CHUNKS, Clock, FakeRunner, FakeTranscript, level, opened, run
from voice_agent.engine import EngineClosed, EngineFull, Failed, Final, StreamClosed, StreamOptions
from voice_agent.engine.recognizer import BadAudio, deliver_here
from voice_agent.engine.scheduler import Scheduler


@pytest.fixture
def runner():
    return FakeRunner()


@pytest.fixture
def engine(runner):
    return Scheduler(runner, CHUNKS, FakeTranscript, slots=3, clock=Clock())


def test_a_chunk_is_computed_once_its_last_sample_is_there(engine, runner):
    stream, _ = opened(engine)
    stream.feed(level(0.1, 199))
    run(engine)
    assert runner.steps == []
    stream.feed(level(0.1, 1))
    run(engine)
    assert runner.steps == [([stream._slot], [0], 0)]
    stream.feed(level(0.1, 1280))
    run(engine)
    assert runner.steps[1:] == [([stream._slot], [1], 0)]


def test_streams_that_are_ready_share_a_step_and_others_do_not_hold_it_up(engine, runner):
    (a, _), (b, _), (c, _) = opened(engine), opened(engine), opened(engine)
    a.feed(level(0.1))
    c.feed(level(0.3))
    run(engine)
    assert runner.steps == [([a._slot, c._slot], [0, 0], 0)]
    assert b._slot not in runner.resets


def test_the_longest_waiting_right_context_goes_first(engine, runner):
    (near, _), (far, _) = opened(engine, right=0), opened(engine, right=6)
    engine.clock.now = 5.0
    near.feed(level(0.1, 200))
    engine.clock.now = 4.0
    far.feed(level(0.1, 8000))
    run(engine)
    assert [right for *_, right in runner.steps] == [6, 0]


def test_a_stream_that_is_behind_catches_up_one_chunk_a_tick(engine, runner):
    (late, _), (on_time, _) = opened(engine), opened(engine)
    late.feed(level(0.1, 200 + 3 * 1280))
    on_time.feed(level(0.1, 200))
    run(engine)
    assert [len(slots) for slots, *_ in runner.steps] == [2, 1, 1, 1]


def test_a_batch_is_never_larger_than_its_limit(runner):
    engine = Scheduler(runner, CHUNKS, FakeTranscript, slots=5, max_batch=2, clock=Clock())
    for _ in range(5):
        opened(engine)[0].feed(level(0.1, 200))
    run(engine)
    assert [len(slots) for slots, *_ in runner.steps] == [2, 2, 1]


def test_exactly_one_final_comes_for_every_finish_even_without_audio(engine):
    stream, events = opened(engine)
    stream.finish()
    stream.feed(level(0.2, 700))
    stream.finish()
    stream.finish()
    run(engine)
    finals = [e for e in events if isinstance(e, Final)]
    assert [bool(f.text) for f in finals] == [False, True, False]
    assert [f.audio_s for f in finals] == [0.0, 700 / 16000, 0.0]


def test_audio_after_finish_belongs_to_the_next_segment(engine):
    stream, events = opened(engine)
    stream.feed(level(0.1, 3000))
    stream.finish()
    stream.feed(level(0.7, 3000))
    stream.finish()
    run(engine)
    first, second = (e for e in events if isinstance(e, Final))
    assert max(first.tokens) == 100
    assert min(second.tokens[:1]) == 700


def test_cancel_drops_the_current_segment_and_nothing_else(engine):
    stream, events = opened(engine)
    stream.feed(level(0.1, 3000))
    stream.finish()
    stream.feed(level(0.5, 3000))
    stream.cancel()
    stream.feed(level(0.9, 3000))
    stream.finish()
    run(engine)
    assert [max(e.tokens) for e in events if isinstance(e, Final)] == [100, 900]
    assert not any(500 in e.tokens for e in events)


def test_cancel_during_a_step_silences_what_the_step_says(engine, runner):
    stream, events = opened(engine)
    runner.during = stream.cancel
    stream.feed(level(0.1, 200))
    run(engine)
    assert events == []


def test_cancel_silences_events_that_wait_in_the_callers_loop(engine):
    waiting = []
    stream, events = opened(engine, deliver=waiting.append)
    stream.feed(level(0.1, 200))
    run(engine)
    stream.cancel()
    for dispatch in waiting:
        dispatch()
    assert waiting and events == []


def test_events_of_a_tick_cross_to_a_loop_in_one_call(engine):
    calls = []
    heard = [opened(engine, deliver=calls.append) for _ in range(3)]
    for stream, _ in heard:
        stream.feed(level(0.1, 200))
    run(engine)
    assert len(calls) == 1
    calls[0]()
    assert [len(events) for _, events in heard] == [1, 1, 1]


def test_a_callback_that_raises_does_not_harm_the_others(engine):
    def bad(event):
        raise ValueError("a caller's bug")

    broken = engine.open(bad, deliver_here, StreamOptions(), 0)
    stream, events = opened(engine)
    broken.feed(level(0.1, 200))
    stream.feed(level(0.1, 200))
    run(engine)
    assert len(events) == 1


def test_partials_can_be_switched_off(engine):
    stream, events = opened(engine, partials=False)
    stream.feed(level(0.1, 3000))
    stream.finish()
    run(engine)
    assert [type(e) for e in events] == [Final]


def test_a_full_engine_refuses_and_a_closed_stream_makes_room(engine):
    streams = [opened(engine)[0] for _ in range(3)]
    with pytest.raises(EngineFull, match="all 3 slots are in use; retry in 5 s"):
        opened(engine)
    assert engine.stats.refused == 1
    streams[1].close()
    streams[1].close()
    run(engine)
    again, _ = opened(engine)
    assert again._slot == streams[1]._slot
    with pytest.raises(EngineFull):
        opened(engine)


def test_a_closed_stream_hears_nothing_and_says_so(engine):
    stream, events = opened(engine)
    stream.feed(level(0.1, 3000))
    stream.close()
    run(engine)
    assert events == []
    for call in (stream.finish, stream.cancel, lambda: stream.feed(level(0.1))):
        with pytest.raises(StreamClosed):
            call()


@pytest.mark.parametrize(
    "pcm, complaint",
    [
        (np.zeros((2, 5), np.float32), r"mono array of shape \(n,\), got \(2, 5\)"),
        (np.zeros(5, np.float64), "int16 or float32, got float64"),
        (np.array([0, np.nan, np.inf], np.float32), "2 of 3 float32 samples"),
        (b"bytes", "got bytes"),
    ],
)
def test_what_is_not_audio_is_refused_by_name(engine, pcm, complaint):
    stream, _ = opened(engine)
    with pytest.raises(BadAudio, match=complaint):
        stream.feed(pcm)


def test_int16_and_float32_are_the_same_audio(engine):
    stream, events = opened(engine)
    stream.feed(np.full(3000, 16384, np.int16))
    stream.finish()
    stream.feed(level(0.5, 3000))
    stream.finish()
    run(engine)
    first, second = (e.tokens for e in events if isinstance(e, Final))
    assert first == second


def test_a_dead_device_ends_every_stream_and_refuses_new_ones(runner):
    engine = Scheduler(runner, CHUNKS, FakeTranscript, slots=3)

    def explode():
        raise RuntimeError("device lost")

    runner.during = explode
    stream, events = opened(engine)
    other, others = opened(engine)
    engine.start("test-engine")
    stream.feed(level(0.1, 200))
    engine._thread.join(timeout=10)
    for got in (events, others):
        assert [type(e) for e in got] == [Failed]
        assert "device lost" in str(got[0].error)
    with pytest.raises(EngineClosed, match="device lost"):
        opened(engine)
    with pytest.raises(EngineClosed):
        other.feed(level(0.1))
    other.close()


def test_stop_fails_open_streams_and_can_be_called_twice(engine):
    _, events = opened(engine)
    engine.start("test-engine")
    engine.stop()
    engine.stop()
    assert [type(e) for e in events] == [Failed]


def test_lateness_is_counted_against_a_chunks_length(engine):
    stream, _ = opened(engine)
    stream.feed(level(0.1, 200))
    engine.clock.now += 0.05
    run(engine)
    assert engine.stats.late == 0
    stream.feed(level(0.1, 1280))
    engine.clock.now += 1.0
    run(engine)
    assert engine.stats.late == 1
    assert engine.stats.lag_s == pytest.approx(1.0)


@pytest.mark.parametrize("right", CHUNKS)
@pytest.mark.parametrize("samples", [1, 159, 200, 1279, 1280, 16000, 16001])
def test_padding_covers_all_that_the_last_sample_reaches(right, samples):
    chunks = CHUNKS[right]
    last_frame = chunks.total(samples) * chunks.frames - 1
    # An encoder frame reads 15 mel frames, a mel frame 200 samples on either side.
    reached = max(
        frame
        for frame in range(last_frame + 2)
        for mel in range(8 * frame - 14, 8 * frame + 1)
        if mel * 160 - 200 <= samples - 1 <= mel * 160 + 199
    )
    assert last_frame >= reached + right, "its right context is there"
    assert last_frame - (reached + right) <= right, "and not a chunk more"
