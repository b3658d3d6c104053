"""The query of /v1/listen: what is served, what is refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_agent.server.listen_query import ENDPOINTING_MS, QueryError, parse_query

AUDIO = [("encoding", "linear16"), ("sample_rate", "16000")]


def parse(*items: tuple[str, str]):
    return parse_query([*AUDIO, *items], model="tiny-en")


def test_what_pipecat_sends_by_default_is_served() -> None:
    query = parse(
        ("model", "nova-3-general"), ("language", "en"), ("channels", "1"),
        ("multichannel", "false"), ("diarize", "false"), ("dictation", "false"),
        ("numerals", "false"), ("detect_entities", "false"), ("smart_format", "false"),
        ("punctuate", "true"), ("interim_results", "true"),
    )  # fmt: skip
    assert query.interim_results and query.language == "en" and query.punctuate
    assert query.endpointing_ms == ENDPOINTING_MS and not query.own_endpointing


def test_pythons_spelling_of_a_flag_is_read() -> None:
    assert parse(("vad_events", "True")).vad_events


def test_multi_lets_the_recogniser_decide_and_asks_for_what_it_heard() -> None:
    query = parse(("language", "multi"))
    assert query.language is None and query.multi


def test_keyterms_and_keywords_become_phrases() -> None:
    query = parse(("keyterm", "Bengaluru"), ("keyterm", "NeMo"), ("keywords", "spark:2.5"))
    assert query.phrases == (("Bengaluru", None), ("NeMo", None), ("spark", 2.5))


def test_float32_is_another_name_for_linear32() -> None:
    assert parse_query([("encoding", "float32"), ("sample_rate", "8000")], model="m") == (
        parse_query([("encoding", "linear32"), ("sample_rate", "8000")], model="m")
    )


def test_opus_knows_its_own_rate() -> None:
    assert parse_query([("encoding", "opus")], model="m").sample_rate == 48_000


@pytest.mark.parametrize(("items", "named"), [
    ([], "encoding is missing"), ([("encoding", "linear16")], "sample_rate is missing"),
    ([*AUDIO, ("channels", "1"), ("channels", "2")], "channels is given twice"),
    ([*AUDIO, ("channels", "١")], "channels is 1 to 8"),
    ([*AUDIO, ("vad_events", "yes")], "vad_events is true or false"),
    ([*AUDIO, ("diarize", "true")], "diarize=true is not served"),
    ([*AUDIO, ("redact", "pii")], "redact is not served"),
    ([*AUDIO, ("version", "2021")], "version"), ([*AUDIO, ("extra", "x")], "KEY:VALUE"),
    ([*AUDIO, ("endpointing", "11000")], "endpointing"),
    ([*AUDIO, ("keywords", "a:b")], "keywords"),
    ([*AUDIO, ("utterance_end_ms", "1000")], "needs interim_results"),
])  # fmt: skip
def test_a_refusal_names_the_parameter(items: list[tuple[str, str]], named: str) -> None:
    with pytest.raises(QueryError, match=named):
        parse_query(items, model="tiny-en")


@given(st.lists(st.tuples(st.sampled_from(["channels", "tag", "x", "endpointing", "keywords",
                                           "extra", "model", "language"]), st.text())))  # fmt: skip
def test_any_query_is_read_or_refused_in_a_sentence(items: list[tuple[str, str]]) -> None:
    try:
        parse(*items)
    except QueryError as error:
        assert str(error)
