"""The `gate` group: what it accepts, and what is loaded and built from it."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tests.support.scripted import ScriptedRecognizer
from voice_agent.config import Settings, load_settings
from voice_agent.config_errors import ConfigError
from voice_agent.config_gate import GateConfig
from voice_agent.engine.gate import GatedRecognizer, GateSettings
from voice_agent.recognizers import load_recognizer, load_shared_recognizer


@pytest.fixture
def english(monkeypatch):
    """`stt` loads this; everything else is real."""
    made = ScriptedRecognizer([], name="rec-en")
    monkeypatch.setattr("voice_agent.engine.load_recognizer", lambda *_, **__: made)
    return made


def test_the_defaults_are_the_engines():
    mine, theirs = GateConfig().policy(), GateSettings()
    for field in fields(GateSettings):
        assert getattr(mine, field.name) == getattr(theirs, field.name), field.name


def test_without_a_gate_the_recogniser_is_loaded_alone(english):
    assert load_recognizer(Settings()) is english
    assert Settings().spoken_language == "en"


def test_an_enabled_gate_wraps_what_stt_names(english):
    settings = load_settings(
        overrides={
            "gate.enabled": True,
            "gate.threshold": 0.7,
            "gate.partials": "hold",
            "server.max_sessions": 3,
            "stt.device": "cpu",
        }
    )
    gate = load_recognizer(settings)
    assert isinstance(gate, GatedRecognizer)
    assert gate.recognizers["en"] is english
    assert gate.recognizers["kn"].name == "tiny-kn"
    assert (gate.settings.threshold, gate.settings.partials) == (0.7, "hold")
    gate.close()
    assert settings.spoken_language is None, "callers' streams name no language, or bypass it"


@pytest.mark.parametrize("language", ["en-GB", "auto"])
def test_the_default_language_is_the_agents(english, language):
    overrides = {"gate.enabled": True, "language": language, "stt.device": "cpu"}
    gate = load_recognizer(load_settings(overrides=overrides))
    assert gate.languages == ("en", "kn")
    gate.close()


async def test_a_process_has_one_gate_and_it_is_not_the_plain_recogniser(english):
    plain = Settings()
    gated = load_settings(overrides={"gate.enabled": True})
    one, two, three = [await load_shared_recognizer(s) for s in (gated, gated, plain)]
    assert one is two and isinstance(one, GatedRecognizer)
    assert three is english


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"gate.threshold": 1.5}, "threshold must be 0.5 or more, below 1, got 1.5"),
        ({"gate.identifier": "guess"}, "gate.identifier"),
        ({"gate.languages": {"en": "tiny-en"}}, "gate.languages names 'en', which stt serves"),
        ({"gate.languages": {"kn": "tiny-kn"}, "stt.final_pass": "full"}, "behind a language gate"),
        ({"gate.languages": {}}, "gate.languages"),
        ({"gate.tresholds": 0.9}, "gate.tresholds"),
    ],
)
def test_settings_that_make_no_sense_are_named(wrong, says):
    with pytest.raises(ConfigError, match=says):
        load_settings(overrides={"gate.enabled": True, **wrong})


@pytest.mark.parametrize("final_pass", [None, "stream", "beam"])
def test_behind_a_gate_whatever_streams_may_decode(final_pass):
    settings = load_settings(overrides={"gate.enabled": True, "stt.final_pass": final_pass})
    assert settings.stt.final_pass == final_pass


def test_a_gate_that_is_off_is_not_judged():
    assert load_settings(overrides={"gate.threshold": 1.5}).gate.threshold == 1.5
