"""Partials from models that only decode whole segments."""

from __future__ import annotations

import numpy as np
import pytest

from voice_agent.alternatives.redecode import RedecodingSession, Schedule, agreed, redecoding
from voice_agent.alternatives.worker import Decoded
from voice_agent.engine.recognizer import StreamOptions

TENTH = np.zeros(1_600, np.float32)


class Reader:
    """Hears one word a second; the word that is being said is heard wrongly."""

    def __init__(self, cost_s: float = 0.0) -> None:
        self.now, self.cost_s, self.decodings = 0.0, cost_s, []

    def __call__(self, pcm, options, *, final):
        self.now += self.cost_s
        seconds = pcm.size / 16_000
        self.decodings.append((seconds, final))
        words = "one two three four five six seven eight nine ten".split()[: int(seconds)]
        return Decoded(" ".join([*words, "umm"] if not final else words))

    def clock(self):
        return self.now


def run(reader, seconds, schedule):
    partials = []
    session = RedecodingSession(
        reader, StreamOptions(), lambda d: partials.append(d.text), schedule, reader.clock
    )
    for _ in range(round(seconds * 10)):
        session.feed(TENTH)
    return partials, session.finish(TENTH[:0])


def test_a_partial_is_what_two_decodings_agree_on():
    partials, final = run(Reader(), 4.0, Schedule(every_s=1.0))
    assert partials == ["one", "one two", "one two three"]
    assert final.text == "one two three four"


def test_decoding_again_backs_off_where_it_is_slow():
    reader = Reader(cost_s=1.0)
    run(reader, 9.0, Schedule(every_s=1.0, share=0.5))
    times = [seconds for seconds, final in reader.decodings if not final]
    assert np.diff(times).min() >= 2.0 - 1e-6  # a second's work for each two of audio


def test_partials_stop_where_a_segment_grows_too_long():
    reader = Reader()
    run(reader, 9.0, Schedule(every_s=1.0, up_to_s=5.0))
    assert max(seconds for seconds, final in reader.decodings if not final) <= 5.0


def test_no_partials_are_decoded_where_none_are_wanted():
    reader = Reader()
    session = redecoding(reader)(StreamOptions(partials=False), pytest.fail)
    for _ in range(50):
        session.feed(TENTH)
    session.finish(TENTH)
    assert reader.decodings == [(pytest.approx(5.1), True)]


def test_a_partial_never_takes_words_back():
    heard = iter(["a b c x", "a b c y", "a b q", "a b q r", "a b q r s"])
    partials = []
    session = RedecodingSession(
        lambda pcm, options, final: Decoded(next(heard)),
        StreamOptions(), lambda d: partials.append(d.text), Schedule(every_s=0.05), lambda: 0.0,
    )  # fmt: skip
    for _ in range(5):
        session.feed(TENTH)
    assert partials == ["a b c", "a b q", "a b q r"]


def test_case_and_punctuation_do_not_count_as_disagreement():
    assert agreed("The end. of".split(), "the end of it".split()) == 3
    assert agreed([], ["a"]) == 0
