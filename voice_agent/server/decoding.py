"""What clients send as audio, made into what recognisers take: 16 kHz mono int16 a channel.

    linear16, linear32 (float), mulaw, alaw    a byte stream: messages may split a sample
    opus                                       one packet a message

    decode(bytes) -> [pcm, ...]    one array for each channel that is transcribed
    flush()       -> [pcm, ...]    what the resampler held back

No I/O; a decoder belongs to one stream.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, Protocol, get_args

import numpy as np

from voice_agent.audio import AudioFormatError, MonoResampler

Encoding = Literal["linear16", "linear32", "mulaw", "alaw", "opus"]
ENCODINGS: tuple[str, ...] = get_args(Encoding)
_WIDTH = {"linear16": 2, "linear32": 4, "mulaw": 1, "alaw": 1}
_OPUS_RATE = 48_000  # what the decoder gives, whatever the encoder was fed (RFC 7845, 5.1)
MAX_CHANNELS = 8


class Decoder(Protocol):
    """Bytes to samples. Any one thread at a time.

    Attributes:
        outputs: arrays that `decode` returns: 1, or with `multichannel` one a channel.
    """

    outputs: int

    def decode(self, data: bytes) -> list[np.ndarray]:
        """Decode the next message.

        Returns:
            int16 (n,) at 16 kHz for each output; n is the same for all.

        Raises:
            AudioFormatError: bytes that cannot be audio of this encoding.
        """
        ...

    def flush(self) -> list[np.ndarray]:
        """Return what was held back, and start afresh."""
        ...


class PcmDecoder:
    """Samples without a codec. See `Decoder`."""

    def __init__(
        self, encoding: str, sample_rate: int, channels: int = 1, *, multichannel: bool = False
    ) -> None:
        """Decode one stream.

        Args:
            encoding: "linear16", "linear32", "mulaw" or "alaw".
            sample_rate: samples a second, per channel.
            channels: interleaved channels.
            multichannel: keep the channels apart, instead of averaging them.

        Raises:
            AudioFormatError: a rate or channel count that is not served.
        """
        self._encoding = encoding
        self._channels = channels
        self._frame = _WIDTH[encoding] * channels
        self._rest = b""
        self._mixer = _Mixer(sample_rate, channels, multichannel)
        self.outputs = self._mixer.outputs

    def decode(self, data: bytes) -> list[np.ndarray]:
        """See `Decoder.decode`; part of a sample waits for the next message."""
        held = self._rest + data if self._rest else data
        whole = len(held) - len(held) % self._frame
        self._rest = held[whole:]
        samples = _as_int16(held[:whole], self._encoding)
        return self._mixer.process(samples.reshape(-1, self._channels))

    def flush(self) -> list[np.ndarray]:
        """See `Decoder.flush`."""
        return self._mixer.flush()


class OpusDecoder:
    """Bare Opus packets, one a message, by FFmpeg's decoder in PyAV. See `Decoder`."""

    def __init__(self, channels: int = 1, *, multichannel: bool = False) -> None:
        """Decode one stream.

        Args:
            channels: 1 or 2; a packet with the other number is mixed or doubled.
            multichannel: keep the channels apart.

        Raises:
            AudioFormatError: more than two channels.
        """
        import av

        if channels > 2:
            raise AudioFormatError(f"opus carries 1 or 2 channels here, not {channels}")
        layout = "mono" if channels == 1 else "stereo"
        self._codec: Any = av.CodecContext.create("libopus", "r")
        self._codec.sample_rate = _OPUS_RATE
        self._codec.layout = layout
        self._to_s16 = av.AudioResampler(format="s16", layout=layout, rate=_OPUS_RATE)
        self._packet = av.Packet
        self._error: type[Exception] = av.FFmpegError
        self._channels = channels
        self._mixer = _Mixer(_OPUS_RATE, channels, multichannel)
        self.outputs = self._mixer.outputs

    def decode(self, data: bytes) -> list[np.ndarray]:
        """See `Decoder.decode`."""
        if not data:  # to FFmpeg this would be the end of the stream
            return self._mixer.process(np.empty((0, self._channels), np.int16))
        try:
            frames = self._codec.decode(self._packet(data))
            samples = [f.to_ndarray() for frame in frames for f in self._to_s16.resample(frame)]
        except (self._error, ValueError) as error:
            raise AudioFormatError(
                f"{len(data)} bytes are no Opus packet; send one bare packet a message"
            ) from error
        joined = np.concatenate(samples, axis=1) if samples else np.empty((1, 0), np.int16)
        return self._mixer.process(joined.reshape(-1, self._channels))

    def flush(self) -> list[np.ndarray]:
        """See `Decoder.flush`."""
        return self._mixer.flush()


def make_decoder(
    encoding: str, sample_rate: int, channels: int = 1, *, multichannel: bool = False
) -> Decoder:
    """The decoder for a stream's encoding.

    Raises:
        AudioFormatError: an encoding, rate or channel count that is not served.
    """
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioFormatError(f"channels is 1 to {MAX_CHANNELS}, got {channels}")
    if encoding == "opus":
        return OpusDecoder(channels, multichannel=multichannel)
    if encoding not in _WIDTH:
        raise AudioFormatError(f"encoding {encoding!r} is not served; use {', '.join(ENCODINGS)}")
    return PcmDecoder(encoding, sample_rate, channels, multichannel=multichannel)


class _Mixer:
    """Samples of all channels to 16 kHz: mixed, or each by itself."""

    def __init__(self, rate: int, channels: int, multichannel: bool) -> None:
        self._rate = rate
        self.outputs = channels if multichannel else 1
        self._in = 1 if multichannel else channels
        self._resamplers = [MonoResampler() for _ in range(self.outputs)]
        self.process(np.empty((0, channels), np.int16))  # a rate that is not served fails here

    def process(self, samples: np.ndarray) -> list[np.ndarray]:
        """Resample int16 (n, channels)."""
        if self.outputs == 1:
            return [self._resamplers[0].process(samples.tobytes(), self._rate, self._in)]
        return [
            resampler.process(samples[:, i].tobytes(), self._rate)
            for i, resampler in enumerate(self._resamplers)
        ]

    def flush(self) -> list[np.ndarray]:
        return [resampler.flush() for resampler in self._resamplers]


def _as_int16(data: bytes, encoding: str) -> np.ndarray:
    if encoding == "linear16":
        return np.frombuffer(data, "<i2")
    if encoding == "linear32":
        samples = np.frombuffer(data, "<f4")
        finite = np.isfinite(samples)
        if not finite.all():
            bad = int((~finite).sum())
            raise AudioFormatError(
                f"{bad} of {samples.size} linear32 samples are NaN or infinite; "
                "send 32-bit floats in [-1, 1]"
            )
        return np.rint(np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16)
    table = _mulaw() if encoding == "mulaw" else _alaw()
    return table[np.frombuffer(data, np.uint8)]


@functools.cache
def _mulaw() -> np.ndarray:
    """ITU-T G.711 mu-law: byte -> int16, shape (256,)."""
    code = ~np.arange(256, dtype=np.uint8)
    exponent = ((code >> 4) & 7).astype(np.int32)
    magnitude = ((((code & 15).astype(np.int32) << 3) + 0x84) << exponent) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


@functools.cache
def _alaw() -> np.ndarray:
    """ITU-T G.711 A-law: byte -> int16, shape (256,)."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent = ((code >> 4) & 7).astype(np.int32)
    step = ((code & 15).astype(np.int32) << 4) + 8
    magnitude = np.where(exponent == 0, step, (step + 0x100) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)
