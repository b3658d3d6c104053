"""Streams that are fed by one call hear what they would have heard one by one."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engine.fakes import FakeRunner, opened, run, scheduler, windows_of
from voice_agent.engine import BadAudio, StreamClosed
from voice_agent.engine.streams import EngineStream
from voice_agent.engine.together import Together


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-32768, 32768, shape, dtype=np.int16)


@pytest.mark.parametrize("samples", [1280, 320, 1777, 20_000])
def test_every_stream_hears_its_own_audio(samples):
    """Some pieces meet a ring's end, one stream is fed float32 and one is far behind."""
    runner = FakeRunner()
    engine = scheduler(runner, slots=5)
    streams = [opened(engine, right=r, partials=False)[0] for r in (0, 6, 0, 0)]
    together = Together(streams)
    heard: list[list[np.ndarray]] = [[] for _ in streams]
    for turn in range(120_000 // samples):
        pcm = noise(turn, len(streams), samples)
        if turn % 7 == 2:
            streams[2].feed(pcm[2] / np.float32(32768))
            heard[2].append(pcm[2])
        together.feed(pcm)
        for lane, row in zip(heard, pcm, strict=True):
            lane.append(row)
        if turn % 3:
            run(engine)
    for stream in streams:
        stream.finish()
    run(engine)
    for stream, audio in zip(streams, heard, strict=True):
        (windows,) = runner.heard(stream.slot)
        want = windows_of(np.concatenate(audio), stream.right)
        assert len(windows) == len(want)
        for one, other in zip(windows, want, strict=True):
            np.testing.assert_array_equal(one, other)


def test_when_the_audio_came_is_known_as_of_a_single_feed():
    engine = scheduler(FakeRunner(), slots=2)
    (one, _), (other, _) = opened(engine), opened(engine)
    lags = []
    engine.recorder = lambda slots, arrived, now: lags.append((now - arrived).tolist())
    together = Together([one, other])
    together.feed(noise(0, 2, 3000))
    run(engine)
    engine.clock.now += 5
    together.feed(noise(1, 1280))
    engine.clock.now += 0.25
    run(engine)
    assert lags[-1] == [0.25, 0.25]


def test_a_sleeping_engine_is_woken_once():
    engine = scheduler(FakeRunner(), slots=2)
    streams = [opened(engine)[0] for _ in range(2)]
    engine.take_requests(wait=False)
    engine.rings.asleep[0] = 1
    Together(streams).feed(noise(0, 100))
    assert engine.rings.asleep[0] == 1, "there is nothing to compute"
    Together(streams).feed(noise(0, 1280))
    assert engine.rings.asleep[0] == 0


def test_wrong_audio_and_closed_streams_are_refused_and_nobody_is_fed():
    engine = scheduler(FakeRunner(), slots=2)
    streams = [opened(engine)[0] for _ in range(2)]
    together = Together(streams)
    for wrong in (np.zeros((3, 10), np.int16), np.zeros(10, np.float32), np.zeros((2, 1, 1), "i2")):
        with pytest.raises(BadAudio, match="2 streams"):
            together.feed(wrong)
    together.feed(np.zeros(0, np.int16))
    streams[0].close()
    with pytest.raises(StreamClosed):
        together.feed(noise(0, 100))
    run(engine)
    opened(engine)  # the slot is another's now
    with pytest.raises(StreamClosed):
        together.feed(noise(0, 100))
    assert not engine.rings.written.any()


def test_streams_that_began_together_pass_their_rings_ends_by_one_call(monkeypatch):
    """Thousands meet them in the same chunk: one call each would keep the engine waiting."""
    runner = FakeRunner()
    engine = scheduler(runner, slots=3)
    streams = [opened(engine, partials=False)[0] for _ in range(3)]
    together = Together(streams)
    monkeypatch.setattr(EngineStream, "feed", None)
    audio = [noise(turn, 3, 1280) for turn in range(80)]  # three times round
    for pcm in audio:
        together.feed(pcm)
        run(engine)
    for lane, stream in enumerate(streams):
        (windows,) = runner.heard(stream.slot)
        want = windows_of(np.concatenate([pcm[lane] for pcm in audio]), 0)
        for one, other in zip(windows, want, strict=False):
            np.testing.assert_array_equal(one, other)
        assert len(windows) >= 79


def test_a_stream_with_audio_beside_its_full_ring_is_fed_by_itself():
    engine = scheduler(FakeRunner(), slots=2)
    streams = [opened(engine)[0] for _ in range(2)]
    streams[0].feed(noise(0, 60_000))  # more than the ring holds
    feeders = engine._feeders
    assert feeders.plain[[s.slot for s in streams]].tolist() == [False, True]
    fed = feeders.feed(np.array([s.slot for s in streams]), noise(1, 100))
    assert fed.tolist() == [False, True]
    run(engine)
    assert feeders.plain[streams[0].slot]
