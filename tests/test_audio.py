"""Raw PCM on its way to 16 kHz mono: nothing lost, nothing invented, nothing held for long."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_agent.audio import (
    CHUNK_SAMPLES,
    SAMPLE_RATE,
    AudioFormatError,
    MonoResampler,
    PreRoll,
    Rechunker,
)


def tone(rate: int, seconds: float, hertz: float = 440.0) -> np.ndarray:
    return (np.sin(np.arange(round(rate * seconds)) * 2 * np.pi * hertz / rate) * 9000).astype(
        np.int16
    )


def resample(pcm: np.ndarray, rate: int, step_ms: float) -> np.ndarray:
    """All of it, in steps."""
    resampler = MonoResampler()
    step = max(1, round(rate * step_ms / 1000))
    pieces = [
        resampler.process(pcm[i : i + step].tobytes(), rate) for i in range(0, pcm.size, step)
    ]
    return np.concatenate([*pieces, resampler.flush()])


@pytest.mark.parametrize("rate", [8000, 22050, 24000, 44100, 48000])
def test_a_tone_stays_what_it_is_however_the_audio_is_cut(rate):
    pcm = tone(rate, 2.0)
    whole = resample(pcm, rate, 2000)
    assert whole.size == pytest.approx(2 * SAMPLE_RATE, abs=2)
    inner = slice(2000, -2000)  # the ends ring
    assert np.abs(whole[inner] - tone(SAMPLE_RATE, 2.0)[: whole.size][inner]).max() < 90
    for step_ms in (2.5, 20, 33):
        cut = resample(pcm, rate, step_ms)
        assert cut.size == whole.size
        assert np.abs(cut.astype(int) - whole).max() <= 2  # of rounding


@pytest.mark.parametrize("rate, limit_ms", [(8000, 120), (22050, 42), (44100, 42), (48000, 42)])
def test_no_more_is_held_back_than_is_said(rate, limit_ms):
    resampler = MonoResampler()
    came, went = 0, 0
    for _ in range(200):
        came += 20
        went += resampler.process(bytes(2 * (rate // 50)), rate).size
        assert came - went * 1000 / SAMPLE_RATE <= limit_ms


def test_16_khz_mono_passes_untouched_and_at_once():
    pcm = tone(SAMPLE_RATE, 0.1)
    assert np.array_equal(MonoResampler().process(pcm.tobytes(), SAMPLE_RATE), pcm)


def test_channels_are_averaged():
    left, right = np.full(160, 1000, np.int16), np.full(160, -400, np.int16)
    stereo = np.stack([left, right], axis=1)
    mixed = MonoResampler().process(stereo.tobytes(), SAMPLE_RATE, 2)
    assert np.array_equal(mixed, np.full(160, 300))


def test_a_change_of_rate_lets_out_what_was_held_back():
    resampler = MonoResampler()
    first = resampler.process(tone(48000, 0.5).tobytes(), 48000)
    then = resampler.process(tone(SAMPLE_RATE, 0.5).tobytes(), SAMPLE_RATE)
    assert first.size < SAMPLE_RATE / 2
    assert first.size + then.size == pytest.approx(SAMPLE_RATE, abs=2)


@pytest.mark.parametrize(
    "size, rate, channels, says",
    [
        (3, 16000, 1, "3 bytes are not whole 16-bit samples of 1 channel"),
        (6, 16000, 2, "send a multiple of 4"),
        (4, 0, 1, "audio claims 0 samples a second; send 1,000 to 384,000"),
        (4, 16000, 0, "audio claims 0 channels; send 1 to 32"),
        (4, 16000, 33, "audio claims 33 channels"),
    ],
)
def test_bytes_that_cannot_be_audio_are_refused_with_the_reason(size, rate, channels, says):
    with pytest.raises(AudioFormatError, match=says):
        MonoResampler().process(bytes(size), rate, channels)


@given(st.lists(st.integers(0, 3000), max_size=20))
def test_rechunking_loses_nothing_and_every_piece_is_whole(sizes):
    rechunker = Rechunker()
    samples = np.arange(sum(sizes)).astype(np.int16)
    pieces = []
    for piece in np.split(samples, np.cumsum(sizes)[:-1]) if sizes else []:
        pieces += rechunker.push(piece)
    assert all(piece.size == CHUNK_SAMPLES for piece in pieces)
    rest = rechunker.flush()
    assert rest.size < CHUNK_SAMPLES
    assert np.array_equal(np.concatenate([*pieces, rest]), samples)
    assert rechunker.flush().size == 0


@given(st.lists(st.integers(0, 900), max_size=20))
def test_the_pre_roll_is_the_end_of_what_came(sizes):
    pre_roll = PreRoll(0.05)  # 800 samples
    samples = np.arange(sum(sizes)).astype(np.int16)
    for piece in np.split(samples, np.cumsum(sizes)[:-1]) if sizes else []:
        pre_roll.push(piece)
    assert np.array_equal(pre_roll.take(), samples[-800:])
    assert pre_roll.take().size == 0
