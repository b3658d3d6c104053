"""Encodings: the samples that they stand for, however the bytes are cut."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tests.support.serving import RATE, speech
from voice_agent.audio import AudioFormatError
from voice_agent.server.decoding import OpusDecoder, make_decoder


def everything(decoder, parts: list[bytes]) -> np.ndarray:
    """(outputs, n): all that comes out."""
    outs = [decoder.decode(part) for part in parts] + [decoder.flush()]
    return np.stack([np.concatenate([out[i] for out in outs]) for i in range(decoder.outputs)])


@pytest.mark.parametrize(("encoding", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW")])
def test_every_code_of_g711_is_what_libsndfile_makes_of_it(encoding: str, subtype: str) -> None:
    codes = bytes(range(256))
    raw = io.BytesIO(codes)
    expected, _ = soundfile.read(
        raw, dtype="int16", samplerate=RATE, channels=1, format="RAW", subtype=subtype
    )
    got = everything(make_decoder(encoding, RATE), [codes])[0]
    np.testing.assert_array_equal(got, expected)


@given(
    encoding=st.sampled_from(["linear16", "linear32", "mulaw", "alaw"]),
    channels=st.integers(1, 3),
    apart=st.booleans(),
    rate=st.sampled_from([8_000, 16_000, 44_100]),
    cuts=st.lists(st.integers(0, 12_000), max_size=8),
)
def test_bytes_may_be_cut_anywhere(
    encoding: str, channels: int, apart: bool, rate: int, cuts: list[int]
) -> None:
    pcm = np.stack([speech(0.05, rate) // (i + 1) for i in range(channels)], axis=1)
    data = (pcm / 32768).astype("<f4").tobytes() if encoding == "linear32" else pcm.tobytes()
    places = sorted({c for c in cuts if c < len(data)})
    parts = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]

    def decoded(pieces: list[bytes]) -> np.ndarray:
        decoder = make_decoder(encoding, rate, channels, multichannel=apart)
        return everything(decoder, pieces)

    # soxr dithers what it makes 16-bit, so the same bytes differ by a step or two each time.
    np.testing.assert_allclose(decoded(parts), decoded([data]), atol=0 if rate == RATE else 4)


def test_channels_are_mixed_or_kept_apart() -> None:
    pcm = np.array([[100, 300], [200, -200]], "<i2").tobytes()
    assert everything(make_decoder("linear16", RATE, 2), [pcm]).tolist() == [[200, 0]]
    apart = make_decoder("linear16", RATE, 2, multichannel=True)
    assert everything(apart, [pcm]).tolist() == [[100, 200], [300, -200]]


def opus_packets(pcm: np.ndarray) -> list[bytes]:
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 48_000, "mono", "s16"
    packets = []
    for i in range(0, pcm.size, 960):
        frame = av.AudioFrame.from_ndarray(pcm[None, i : i + 960], format="s16", layout="mono")
        frame.sample_rate = 48_000
        packets += [bytes(p) for p in encoder.encode(frame)]
    return packets


def test_opus_packets_become_the_sound_that_they_were() -> None:
    pcm = speech(1.0, 48_000)
    got = everything(make_decoder("opus", 48_000), opus_packets(pcm))[0].astype(float)
    assert got.size / RATE == pytest.approx(1.0, abs=0.03)
    spectrum = np.abs(np.fft.rfft(got[2000:10_000]))
    assert np.argmax(spectrum) * RATE / 8000 == pytest.approx(300, abs=4)


@pytest.mark.parametrize("make", [
    lambda: make_decoder("linear32", RATE).decode(np.array([np.nan], "<f4").tobytes()),
    lambda: make_decoder("opus", 48_000).decode(b"\xff" * 2000),
    lambda: make_decoder("flac", RATE),
    lambda: make_decoder("linear16", 10),
    lambda: make_decoder("linear16", RATE, 9),
    lambda: OpusDecoder(3),
])  # fmt: skip
def test_what_cannot_be_audio_is_refused_in_a_sentence(make) -> None:
    with pytest.raises(AudioFormatError, match=r"\w+ \w+"):
        make()
