"""The clip as a WebRTC track: every sample once, silence around it, at the pace of the clock."""

import time

import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError

from voice_agent.demo.clip import CLIP_RATE
from voice_agent.demo.microphone import ClipTrack

FRAME = 960


async def receive(track: ClipTrack, frames: int) -> np.ndarray:
    blocks = []
    for _ in range(frames):
        frame = await track.recv()
        assert (frame.sample_rate, frame.samples) == (CLIP_RATE, FRAME)
        blocks.append(frame.to_ndarray()[0])
    return np.stack(blocks)


async def test_the_clip_comes_whole_between_silence():
    pcm = np.arange(1, 2 * FRAME + 101, dtype=np.int16)
    track = ClipTrack(pcm)
    assert not (await receive(track, 2)).any() and track.started_at is None
    track.play()
    played = (await receive(track, 4)).ravel()
    assert np.array_equal(played[: pcm.size], pcm) and not played[pcm.size :].any()
    assert track.done.is_set() and track.started_at is not None
    track.stop()


async def test_frames_never_come_before_they_are_due():
    track = ClipTrack(np.zeros(FRAME, np.int16))
    began = time.monotonic()
    await receive(track, 11)
    assert time.monotonic() - began >= 10 * 0.02 - 0.001
    track.stop()


async def test_time_stamps_count_samples():
    track = ClipTrack(np.zeros(FRAME, np.int16))
    assert [(await track.recv()).pts for _ in range(3)] == [0, FRAME, 2 * FRAME]
    track.stop()


async def test_a_stopped_microphone_ends_the_track():
    track = ClipTrack(np.zeros(FRAME, np.int16))
    track.stop()
    with pytest.raises(MediaStreamError):
        await track.recv()
