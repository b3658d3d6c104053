"""Every sample that was fed reaches the device once, in order, in the right segment."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tests.engine.fakes import CHUNKS, AheadRunner, FakeRunner, opened, run, scheduler, windows_of
from tests.support.collect import Collector
from voice_agent.engine import Final, StreamOptions
from voice_agent.engine.recognizer import deliver_here
from voice_agent.engine.rings import Rings


def assert_heard(runner: FakeRunner, slot: int, segments: list[np.ndarray], right: int) -> None:
    heard = runner.heard(slot)
    assert len(heard) == len(segments)
    for got, audio in zip(heard, segments, strict=True):
        want = windows_of(audio, right)
        assert len(got) == len(want)
        for chunk, (one, other) in enumerate(zip(got, want, strict=True)):
            np.testing.assert_array_equal(one, other, err_msg=f"chunk {chunk}")


def noise(rng: np.random.Generator, samples: int, kind: str) -> np.ndarray:
    pcm = rng.integers(-32768, 32768, samples, dtype=np.int16)
    return pcm if kind == "int16" else (pcm / np.float32(32768))


@pytest.mark.parametrize("right", CHUNKS)
@pytest.mark.parametrize("kind", ["int16", "float32", "both"])
@pytest.mark.parametrize("runner", [FakeRunner(), AheadRunner()], ids=["step", "ahead"])
def test_whatever_pieces_it_comes_in_the_device_gets_the_same_audio(runner, kind, right):
    runner.__init__()
    rng = np.random.default_rng(right)
    engine = scheduler(runner)
    opened(engine)  # so that ours is not slot 0
    stream, events = opened(engine, right=right, partials=False)
    segments: list[np.ndarray] = []
    for number in range(8):
        pieces: list[np.ndarray] = []
        for _ in range(rng.integers(1, 40)):
            which = kind if kind != "both" else ("int16" if rng.random() < 0.5 else "float32")
            pieces.append(noise(rng, int(rng.integers(0, 4000)), which))
            stream.feed(pieces[-1])
            if rng.random() < 0.5:
                run(engine)
        stream.finish()
        floats = [p / np.float32(32768) if p.dtype == np.int16 else p for p in pieces]
        segments.append(np.concatenate(floats))
        if number % 2:
            run(engine)
    run(engine)
    assert_heard(runner, stream.slot, segments, right)
    finals = [e for e in events if isinstance(e, Final)]
    assert [f.audio_s for f in finals] == [len(s) / 16000 for s in segments]
    assert engine.stats.overflows == 0


@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_what_a_ring_has_no_room_for_is_not_lost(kind):
    runner = FakeRunner()
    engine = scheduler(runner)
    stream, events = opened(engine, partials=False)
    rng = np.random.default_rng(0)
    audio = noise(rng, 16_000 * 20, kind)  # ten rings
    stream.feed(audio[:200_000])
    for at in range(200_000, len(audio), 1000):  # behind what waits already
        stream.feed(audio[at : at + 1000])
    stream.finish()
    later = noise(rng, 5000, kind)
    stream.feed(later)
    stream.finish()
    run(engine)
    assert engine.stats.overflows == 1
    assert_heard(runner, stream.slot, [audio, later], 0)
    assert [e.audio_s for e in events] == [20.0, 5000 / 16000]
    stream.feed(later)  # and the short way is open again
    stream.finish()
    run(engine)
    assert engine.stats.overflows == 1
    assert_heard(runner, stream.slot, [audio, later, later], 0)


def test_audio_that_waits_beside_a_ring_goes_with_its_cancelled_segment():
    runner = FakeRunner()
    engine = scheduler(runner)
    stream, events = opened(engine, partials=False)
    rng = np.random.default_rng(0)
    stream.feed(noise(rng, 16_000 * 5, "int16"))
    stream.cancel()
    kept = noise(rng, 16_000 * 4, "int16")
    stream.feed(kept)
    stream.finish()
    run(engine)
    assert_heard(runner, stream.slot, [kept], 0)
    assert [e.audio_s for e in events] == [4.0]


def test_an_array_that_the_caller_uses_again_is_not_looked_at_again():
    runner = FakeRunner()
    engine = scheduler(runner)
    for kind, samples in (("int16", 1280), ("float32", 1280), ("int16", 100_000)):
        stream, _ = opened(engine)
        mine = noise(np.random.default_rng(0), samples, kind)
        fed = mine.copy()
        stream.feed(mine)
        mine[:] = 0
        stream.finish()
        run(engine)
        assert_heard(runner, stream.slot, [fed], 0)


@pytest.mark.parametrize("view", ["every second", "backwards", "read-only", "from bytes"])
def test_any_array_of_samples_can_be_fed(view):
    runner = FakeRunner()
    engine = scheduler(runner)
    stream, _ = opened(engine)
    pcm = noise(np.random.default_rng(0), 8000, "int16")
    given = {
        "every second": pcm[::2],
        "backwards": pcm[::-1],
        "read-only": pcm[:],
        "from bytes": pcm,
    }
    audio = given[view]
    if view == "read-only":
        audio.flags.writeable = False
    if view == "from bytes":
        audio = np.frombuffer(pcm.tobytes(), np.int16)
    for at in range(0, len(audio), 1000):
        stream.feed(audio[at : at + 1000])
    stream.finish()
    run(engine)
    assert_heard(runner, stream.slot, [np.ascontiguousarray(audio)], 0)


def test_a_slots_next_stream_hears_nothing_of_the_last():
    runner = FakeRunner()
    engine = scheduler(runner, slots=1)
    rng = np.random.default_rng(0)
    segments = []
    for kind in ("float32", "int16", "float32"):
        stream, _ = opened(engine)
        stream.feed(noise(rng, 50_000, kind))
        stream.finish()
        run(engine)
        audio = noise(rng, 300, kind)
        stream.feed(audio)
        stream.finish()
        run(engine)
        segments.append(audio)
        stream.close()
        run(engine)
    assert_heard_last = runner.heard(0)[1::2]
    for got, audio in zip(assert_heard_last, segments, strict=True):
        for one, other in zip(got, windows_of(audio, 0), strict=True):
            np.testing.assert_array_equal(one, other)


def test_rings_take_the_memory_that_is_used_and_a_window_never_wraps():
    rings = Rings(4, CHUNKS)
    for right, chunks in CHUNKS.items():
        size = rings.sizes[right]
        assert size & (size - 1) == 0
        assert size >= chunks.window_samples + 2 * chunks.samples
        assert rings.row >= size + chunks.window_samples


@pytest.mark.parametrize("runner", [FakeRunner(), AheadRunner()], ids=["step", "ahead"])
def test_feeders_on_many_threads_and_the_engine_never_mix_a_sample_up(runner):
    """Fed as fast as can be, so rings overflow, wrap and are read while they are written."""
    runner.__init__()
    engine = scheduler(runner, slots=6)
    engine.start("test-engine")
    rng = np.random.default_rng(0)
    audio = [[noise(rng, 30_000 + 777 * i, "int16") for _ in range(4)] for i in range(6)]
    heard = [Collector() for _ in audio]
    streams = [engine.open(h, deliver_here, StreamOptions(partials=False), 0) for h in heard]

    def feed(mine: list[int]) -> None:
        for segment in range(4):
            for at in range(0, 40_000, 641):
                for i in mine:
                    streams[i].feed(audio[i][segment][at : at + 641])
            for i in mine:
                streams[i].finish()

    threads = [threading.Thread(target=feed, args=(mine,)) for mine in ([0, 1], [2, 3], [4, 5])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, collector in enumerate(heard):
        assert [collector.final().audio_s for _ in audio[i]] == [len(a) / 16000 for a in audio[i]]
    engine.stop()
    for stream, segments in zip(streams, audio, strict=True):
        assert_heard(runner, stream.slot, segments, 0)


def test_audio_behind_an_end_that_the_engine_has_not_heard_of_is_the_next_segments():
    runner = FakeRunner()
    engine = scheduler(runner)
    stream, _ = opened(engine)
    engine.take_requests(wait=False)
    first, second = noise(np.random.default_rng(0), 900, "int16"), np.ones(9000, np.int16)
    stream.feed(first)
    engine.tick()  # what was needed of it
    stream.finish()
    stream.feed(second)
    steps = len(runner.steps)
    while engine.tick():  # the engine looks at what is there, but not at what was asked
        pass
    assert len(runner.steps) == steps
    stream.finish()
    run(engine)
    assert_heard(runner, stream.slot, [first, second], 0)
