"""The recogniser protocol over IndicConformer's worker, with a backend whose words are known."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engine.indic_fixtures import WordASecond, spoken
from tests.support.collect import Collector
from voice_agent.engine.errors import BadAudio, EngineClosed, EngineFull, StreamClosed
from voice_agent.engine.indic_conformer import IndicConformerRecognizer
from voice_agent.engine.recognizer import Failed, Recognizer, Stream, StreamOptions


@pytest.fixture
def backend():
    return WordASecond()


@pytest.fixture
def recognizer(backend):
    made = IndicConformerRecognizer(backend, name="words", slots=4, batch=8)
    yield made
    backend.gate.set()
    made.close()


def text(*numbers: int) -> str:
    return " ".join(f"ಪ{n}" for n in numbers)


def test_it_is_a_recognizer(recognizer):
    assert isinstance(recognizer, Recognizer)
    assert isinstance(recognizer.open(Collector()), Stream)


def test_a_segment_gives_partials_and_one_final(recognizer, backend):
    heard = Collector()
    stream = recognizer.open(heard)
    for decodes, level in enumerate((11, 12, 13, 14), start=1):
        stream.feed(spoken(level))
        backend.wait_for_decodes(decodes)
    stream.finish()
    final = heard.final()
    assert final.text == text(11, 12, 13, 14)
    assert final.language == "kn" and final.audio_s == 4.0
    assert [w.start_s for w in final.words] == pytest.approx([0.0, 0.96, 2.0, 3.04])
    assert heard.partials
    for partial in heard.partials:
        assert final.text.startswith(partial.text)
        assert partial.audio_end_s == partial.words[-1].end_s


@pytest.mark.parametrize("size", [160, 1234, 16_000, 64_000])
def test_any_split_of_the_audio_gives_the_same_final(recognizer, size):
    heard, pcm = Collector(), spoken(21, 22, 23, 24)
    stream = recognizer.open(heard)
    for start in range(0, len(pcm), size):
        stream.feed(pcm[start : start + size])
    stream.finish()
    assert heard.final().text == text(21, 22, 23, 24)


def test_int16_and_float32_are_heard_alike(recognizer):
    heard = Collector()
    stream = recognizer.open(heard)
    stream.feed((spoken(31, 32) * 32768).astype(np.int16))
    stream.finish()
    assert heard.final().text == text(31, 32)


def test_audio_after_finish_belongs_to_the_next_segment(recognizer):
    heard = Collector()
    stream = recognizer.open(heard)
    stream.feed(spoken(1, 2))
    stream.finish()
    stream.feed(spoken(3))
    stream.finish()
    assert [heard.final().text, heard.final().text] == [text(1, 2), text(3)]


def test_every_finish_gets_a_final_even_without_audio(recognizer):
    heard = Collector()
    stream = recognizer.open(heard)
    stream.finish()
    stream.feed(np.zeros(100, np.float32))
    stream.finish()
    empty, short = heard.final(), heard.final()
    assert (empty.text, empty.audio_s) == ("", 0.0)
    assert (short.text, short.audio_s) == ("", 100 / 16_000)


def test_a_long_segment_is_decoded_in_pieces_and_loses_no_word(recognizer, backend):
    heard, levels = Collector(), [*range(1, 51)]
    stream = recognizer.open(heard, options=StreamOptions(partials=False))
    pcm = spoken(*levels)
    for second in range(4, 50, 5):  # pauses that fall on whole seconds, where words end
        pcm[(second + 1) * 16_000 - 1600 : (second + 1) * 16_000] = 0.0
    stream.feed(pcm)
    stream.finish()
    said = heard.final(timeout=30).text.split()
    assert len(backend.batches) >= 4
    assert max(max(b) for b in backend.batches) <= 15 * 16_000
    whole = [w for w in said if int(w[1:]) < 100]
    assert whole == [w for w in text(*levels).split() if w in whole]
    assert len(whole) >= 46  # a cut inside a pause may split the second of that pause


def test_the_times_of_later_pieces_count_from_the_segments_start(recognizer):
    heard = Collector()
    stream = recognizer.open(heard, options=StreamOptions(partials=False))
    stream.feed(spoken(*range(1, 41)))
    stream.finish()
    starts = [w.start_s for w in heard.final().words]
    assert starts == sorted(starts)
    assert starts[-1] > 38.0


def test_cancel_drops_the_segment_and_the_next_is_whole(recognizer, backend):
    heard = Collector()
    backend.gate.clear()
    stream = recognizer.open(heard)
    stream.feed(spoken(5, 6, 7))
    stream.cancel()
    backend.gate.set()
    stream.feed(spoken(8))
    stream.finish()
    assert heard.final().text == text(8)
    assert len(heard.finals) == 1
    assert not any("ಪ5" in p.text for p in heard.partials)


def test_cancel_after_finish_is_of_the_next_segment(recognizer):
    heard = Collector()
    stream = recognizer.open(heard)
    stream.feed(spoken(5))
    stream.finish()
    stream.cancel()
    assert heard.final().text == text(5)


def test_callers_are_decoded_together_and_hear_their_own_words(recognizer, backend):
    heard = [Collector() for _ in range(4)]
    streams = [recognizer.open(h, options=StreamOptions(partials=False)) for h in heard]
    backend.gate.clear()
    for n, stream in enumerate(streams):
        stream.feed(spoken(40 + n, 50 + n))
        stream.finish()
    backend.gate.set()
    assert [h.final().text for h in heard] == [text(40 + n, 50 + n) for n in range(4)]
    assert recognizer.stats.largest_batch >= 2


def test_each_stream_has_its_own_language(recognizer):
    heard = Collector()
    stream = recognizer.open(heard, options=StreamOptions(language="hi-IN"))
    stream.feed(spoken(9))
    stream.finish()
    final = heard.final()
    assert (final.text, final.language) == ("ह9", "hi")


def test_a_full_recognizer_refuses_and_a_closed_stream_frees_its_slot(recognizer):
    streams = [recognizer.open(Collector()) for _ in range(4)]
    with pytest.raises(EngineFull, match="all 4 slots"):
        recognizer.open(Collector())
    streams[0].close()
    recognizer.open(Collector())


def test_a_closed_stream_takes_nothing_and_tells_nothing(recognizer, backend):
    heard = Collector()
    stream = recognizer.open(heard)
    backend.gate.clear()
    stream.feed(spoken(1, 2))
    stream.finish()
    stream.close()
    stream.close()
    backend.gate.set()
    with pytest.raises(StreamClosed):
        stream.feed(spoken(1))
    other = Collector()
    last = recognizer.open(other)
    last.finish()
    other.final()
    assert heard.events == []


def test_closing_the_recognizer_fails_its_open_streams(backend):
    recognizer = IndicConformerRecognizer(backend, name="words")
    heard = Collector()
    stream = recognizer.open(heard)
    recognizer.close()
    recognizer.close()
    assert isinstance(heard.end(), Failed)
    with pytest.raises(EngineClosed):
        recognizer.open(Collector())
    with pytest.raises(EngineClosed):
        stream.feed(spoken(1))


def test_a_dying_backend_fails_every_stream_and_says_why(recognizer, backend):
    heard = [Collector(), Collector()]
    streams = [recognizer.open(h) for h in heard]
    backend.error = RuntimeError("out of memory")
    streams[0].feed(spoken(1))
    streams[0].finish()
    for h in heard:
        end = h.end()
        assert isinstance(end, Failed) and "out of memory" in str(end.error)
    with pytest.raises(EngineClosed, match="out of memory"):
        recognizer.open(Collector())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (StreamOptions(language="en"), "writes kn, hi, not 'en'"),
        (StreamOptions(right_context=1), "no right_context"),
        (StreamOptions(extra={"beam": 4}), "'beam'"),
    ],
)
def test_options_that_it_does_not_serve_are_named(recognizer, options, says):
    with pytest.raises(ValueError, match=says):
        recognizer.open(Collector(), options=options)


def test_audio_that_cannot_be_audio_is_refused(recognizer):
    stream = recognizer.open(Collector())
    with pytest.raises(BadAudio):
        stream.feed(np.zeros(10))
