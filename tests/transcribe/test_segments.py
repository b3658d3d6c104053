"""Where segments begin and end. The VAD here is the window's first sample: 1.0 is speech."""

import numpy as np
import pytest

from voice_agent.transcribe.segments import WINDOW, Cutting, Piece, speech, whole

CUT = Cutting(start_s=0.096, stop_s=0.32, pre_roll_s=0.192, max_s=3.2)  # 3, 10, 6, 100 windows


def recording(pattern: str) -> np.ndarray:
    """A window for each letter: `#` speech, `-` in between, `.` silence; its number inside."""
    windows = np.zeros((len(pattern), WINDOW), np.float32)
    windows[:, 0] = [{"#": 1.0, "-": 0.4, ".": 0.0}[letter] for letter in pattern]
    windows[:, 1] = np.arange(len(pattern))
    return windows.ravel()


def segments(pattern: str, piece: int = 16000, cut: Cutting = CUT) -> list[tuple[int, int]]:
    """First and last window of each segment, checked to be without a gap."""
    pcm = recording(pattern)
    pieces = [pcm[i : i + piece] for i in range(0, pcm.size, piece)]
    found, current = [], []
    for part in speech(pieces, lambda window: float(window[0]), cut):
        current.extend(part.pcm.reshape(-1, WINDOW)[:, 1].astype(int).tolist())
        if part.last:
            assert current == list(range(current[0], current[-1] + 1))
            assert part.start_s == pytest.approx(current[0] * WINDOW / 16000)
            found.append((current[0], current[-1]))
            current = []
    assert not current, "the last piece of a segment says that it is the last"
    return found


def test_a_segment_has_its_pre_roll_and_its_pause():
    assert segments("." * 20 + "#" * 10 + "." * 20) == [(17, 39)]


def test_the_pre_roll_stops_at_the_start_of_the_recording():
    assert segments("#" * 10 + "." * 20) == [(0, 19)]


def test_a_click_is_no_speech():
    assert segments("." * 20 + "##" + "." * 20 + "#" + "." * 20) == []


def test_a_short_pause_stays_inside():
    assert segments("." * 20 + "#" * 10 + "." * 9 + "#" * 10 + "." * 20) == [(17, 58)]


def test_a_long_pause_separates_and_nothing_is_heard_twice():
    first, second = segments("." * 20 + "#" * 10 + "." * 11 + "#" * 10 + "." * 20)
    assert first == (17, 39)
    assert second[0] == 40


def test_doubtful_windows_neither_begin_nor_end_a_segment():
    assert segments("-" * 20 + "#" * 10 + "-" * 20 + "." * 15) == [(17, 59)]


def test_speech_to_the_very_end_is_kept():
    assert segments("." * 20 + "#" * 10) == [(17, 29)]


def test_a_segment_that_is_too_long_ends_at_the_next_dip_and_loses_nothing():
    first, second = segments("#" * 120 + "-" + "#" * 30 + "." * 20)
    assert first == (0, 120)
    assert second == (121, 160)


@pytest.mark.parametrize("piece", [1, 100, 512, 513, 5000, 10**6])
def test_how_the_recording_is_cut_into_pieces_does_not_matter(piece):
    pattern = "." * 20 + "#" * 10 + "." * 15 + "#" * 12
    assert segments(pattern, piece) == segments(pattern)


def test_a_tail_shorter_than_a_window_is_padded():
    pcm = np.ones(WINDOW * 5 + 100, np.float32)
    parts = list(speech([pcm], lambda window: float(window[0]), CUT))
    assert sum(part.pcm.size for part in parts) == WINDOW * 6


def test_the_whole_recording_is_one_segment():
    parts = list(whole([np.ones(7, np.float32), np.ones(3, np.float32)]))
    assert [part.pcm.size for part in parts] == [7, 3, 0]
    assert [part.last for part in parts] == [False, False, True]
    assert all(isinstance(part, Piece) and part.start_s == 0 for part in parts)
