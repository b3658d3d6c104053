"""Where segments begin and end, whatever the pieces of audio."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.support.serving import RATE, loud_vad, silence, speech
from voice_agent.server.cutter import Begin, Cutter, End, Feed
from voice_agent.transcribe.segments import Cutting, silero
from voice_agent.vad import Vad


def cut(pcm: np.ndarray, sizes: list[int], cutting: Cutting) -> list[tuple[int, int, str]]:
    """Segments as (begin, end, cause), fed in pieces of these sizes; checks what was fed."""
    cutter = Cutter(cutting, loud_vad())
    actions = []
    at = 0
    for size in [*sizes, pcm.size]:
        actions += cutter.push(pcm[at : at + size])
        at = min(pcm.size, at + size)
    actions += cutter.finish()
    segments, begin, fed = [], 0, []
    for action in actions:
        match action:
            case Begin(at=start):
                begin, fed = start, []
            case Feed(pcm=piece):
                fed.append(piece)
            case End(at=end, cause=cause):
                np.testing.assert_array_equal(np.concatenate(fed), pcm[begin:end])
                segments.append((begin, end, cause))
    return segments


@given(
    parts=st.lists(st.tuples(st.booleans(), st.integers(0, 1200)), max_size=6),
    sizes=st.lists(st.integers(1, 5000), max_size=20),
)
def test_pieces_of_any_size_are_cut_alike_and_no_sample_is_fed_twice(
    parts: list[tuple[bool, int]], sizes: list[int]
) -> None:
    pcm = np.concatenate(
        [np.empty(0, np.int16), *((speech if on else silence)(ms / 1000) for on, ms in parts)]
    )
    segments = cut(pcm, sizes, Cutting())
    assert segments == cut(pcm, [], Cutting())
    for (_, end, _), (begin, _, _) in zip(segments, segments[1:], strict=False):
        assert begin >= end


def test_a_segment_begins_before_speech_is_certain() -> None:
    pcm = np.concatenate([silence(1.0), speech(0.5), silence(1.0)])
    ((begin, end, cause),) = cut(pcm, [], Cutting(pre_roll_s=0.4))
    assert 0.6 * RATE < begin < 1.0 * RATE and cause == "pause"
    assert end < 2.4 * RATE


def test_what_never_pauses_is_cut_all_the_same() -> None:
    segments = cut(speech(5.0), [], Cutting(max_s=1.0))
    assert [cause for _, _, cause in segments] == ["length", "length", "client"]


def test_a_word_too_short_to_be_certain_is_not_lost_when_the_client_finalises() -> None:
    pcm = np.concatenate([silence(0.5), speech(0.064)])
    assert [cause for _, _, cause in cut(pcm, [], Cutting())] == ["client"]


def test_our_silero_scores_what_pipecats_does() -> None:
    rng = np.random.default_rng(0)
    windows = (rng.standard_normal((40, 512)) * np.linspace(0, 0.3, 40)[:, None]).astype("f4")
    windows = np.rint(np.clip(windows, -1, 1) * 32767) / np.float32(32767)
    ours, theirs = Vad(), silero()
    np.testing.assert_allclose(
        [ours(w.astype(np.float32)) for w in windows], [theirs(w) for w in windows], atol=1e-3
    )
