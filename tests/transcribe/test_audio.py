"""Any rate, channels and format come out as 16 kHz mono, in pieces; bad files are named."""

import io

import numpy as np
import pytest
import soundfile

from voice_agent.transcribe.audio import open_audio
from voice_agent.transcribe.errors import AudioFileError


def tone(rate: int, seconds: float, channels: int = 1) -> np.ndarray:
    """440 Hz at half scale in the first channel, silence in the others."""
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)
    silent = np.zeros_like(wave)
    return np.stack([wave] + [silent] * (channels - 1), axis=1).astype(np.float32)


def read(name, **kwargs) -> np.ndarray:
    with open_audio(str(name), **kwargs) as audio:
        return np.concatenate(list(audio.pieces()))


def dominant_hz(pcm: np.ndarray, rate: int = 16000) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(pcm))) * rate / pcm.size)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_any_rate_comes_out_at_16_khz(tmp_path, rate):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(rate, 2.3), rate)
    pcm = read(path)
    assert pcm.dtype == np.float32
    assert pcm.size == pytest.approx(2.3 * 16000, abs=2)
    assert dominant_hz(pcm) == pytest.approx(440, abs=1)
    assert np.abs(pcm[1600:-1600]).max() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".aiff", ".opus"])
def test_any_format_of_libsndfile_is_read(tmp_path, suffix):
    path = tmp_path / f"tone{suffix}"
    format = {".opus": "OGG", ".ogg": "OGG"}.get(suffix)
    subtype = {".opus": "OPUS", ".ogg": "VORBIS"}.get(suffix)
    soundfile.write(path, tone(48000, 1.5), 48000, format=format, subtype=subtype)
    pcm = read(path)
    assert pcm.size == pytest.approx(1.5 * 16000, abs=3000)  # MP3 pads
    assert dominant_hz(pcm) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_mixed(tmp_path, channels):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(16000, 1.0, channels), 16000)
    assert np.abs(read(path)).max() == pytest.approx(0.5 / channels, abs=1e-3)


def test_a_long_file_is_never_whole_in_memory(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros((44100 * 30, 2), np.int16), 44100)
    with open_audio(str(path)) as audio:
        sizes = [piece.size for piece in audio.pieces()]
    assert audio.duration_s == 30.0
    assert sum(sizes) == 30 * 16000
    assert max(sizes) <= 16000 * 1.1


def test_stdin_is_read_to_its_end():
    data = io.BytesIO()
    soundfile.write(data, tone(22050, 1.0), 22050, format="FLAC")
    pipe = io.BufferedReader(io.BytesIO(data.getvalue()))
    assert read("-", stdin=pipe).size == pytest.approx(16000, abs=2)


@pytest.mark.parametrize(
    "name, content, problem",
    [
        ("missing.wav", None, "missing.wav: no such file"),
        ("empty.wav", b"", "empty.wav: is empty"),
        ("notes.txt", b"these are words, not samples", "notes.txt: is no audio"),
        ("header.wav", None, "header.wav: holds no samples"),
        ("folder", None, "folder: is a folder"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(tmp_path, name, content, problem):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    elif name == "header.wav":
        soundfile.write(path, np.zeros(0, np.int16), 16000)
    elif name == "folder":
        path.mkdir()
    with pytest.raises(AudioFileError) as raised:
        open_audio(str(path))
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.file == str(path)


def test_samples_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "nan.wav"
    soundfile.write(path, np.array([0.1, np.nan, 0.2], np.float32), 16000, subtype="FLOAT")
    with pytest.raises(AudioFileError, match="NaN or infinite"):
        read(path)
