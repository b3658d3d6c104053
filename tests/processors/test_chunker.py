"""Whatever a transport sends comes out as 80 ms of 16 kHz mono."""

import numpy as np
import pytest
from pipecat.frames.frames import (
    ErrorFrame,
    InputAudioRawFrame,
    TextFrame,
    VADUserStoppedSpeakingFrame,
)

from tests.support.frames import CHUNK, RATE, of_type, run, stopped
from voice_agent.processors import AudioChunker


def cut(samples: np.ndarray, sizes, rate: int = RATE) -> list[InputAudioRawFrame]:
    """Frames of these sizes in turn, as long as there is audio."""
    frames, at = [], 0
    for size in sizes:
        frames.append(InputAudioRawFrame(samples[at : at + size].tobytes(), rate, 1))
        at += size
    return frames


def pcm(frames) -> np.ndarray:
    return np.concatenate([np.frombuffer(f.audio, np.int16) for f in frames])


@pytest.mark.parametrize(
    "sizes",
    [[304] + [320] * 49, [16000], [1] * 1500, [1280] * 4, [5000, 7, 1279, 1281]],
    ids=["webrtc", "all at once", "single samples", "as it should be", "anyhow"],
)
async def test_frames_of_any_size_become_80_ms_and_no_sample_is_lost(sizes):
    samples = np.arange(sum(sizes)).astype(np.int16)
    down, _ = await run(AudioChunker(), cut(samples, sizes))
    chunks = of_type(down, InputAudioRawFrame)
    assert all(c.num_frames == CHUNK for c in chunks[:-1])
    assert all((c.sample_rate, c.num_channels) == (RATE, 1) for c in chunks)
    assert np.array_equal(pcm(chunks), samples)


async def test_48_khz_stereo_becomes_16_khz_mono():
    stereo = np.repeat(np.full(48_000, 500, np.int16), 2)
    frames = [InputAudioRawFrame(p.tobytes(), 48_000, 2) for p in np.split(stereo, 50)]
    down, _ = await run(AudioChunker(), frames)
    chunks = of_type(down, InputAudioRawFrame)
    heard = pcm(chunks)
    assert heard.size == pytest.approx(RATE, abs=2)
    assert np.abs(heard[500:-500] - 500).max() <= 2
    assert all(c.num_frames == CHUNK for c in chunks[:-1])


async def test_other_frames_pass_in_their_place():
    frames = cut(np.zeros(2 * CHUNK, np.int16), [CHUNK, CHUNK])
    down, _ = await run(AudioChunker(), frames[0], stopped(), frames[1])
    assert [type(frame) for frame in down[-3:]] == [
        InputAudioRawFrame,
        VADUserStoppedSpeakingFrame,
        InputAudioRawFrame,
    ]
    down, _ = await run(AudioChunker(), TextFrame("hello"))
    assert [frame.text for frame in of_type(down, TextFrame)] == ["hello"]


async def test_audio_that_is_none_is_reported_once_and_what_is_audio_goes_on():
    bad = [InputAudioRawFrame(b"\0\0\0", RATE, 1) for _ in range(5)]
    down, up = await run(AudioChunker(), bad, cut(np.ones(CHUNK, np.int16), [CHUNK]))
    (error,) = of_type(up, ErrorFrame)
    assert "3 bytes are not whole 16-bit samples" in error.error
    assert len(of_type(down, InputAudioRawFrame)) == 1
