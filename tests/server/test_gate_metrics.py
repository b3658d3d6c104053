"""The language gate's decisions as Prometheus reads them."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.engine.gate_fixtures import LevelIdentifier, ManualRecognizer
from tests.support.scripted import ScriptedRecognizer
from voice_agent.engine.gate import GatedRecognizer, GateTrouble, LanguageDecided
from voice_agent.server.gate_metrics import GateMetrics


@pytest.fixture
def gate():
    parts = {code: ManualRecognizer(code) for code in ("en", "kn")}
    made = GatedRecognizer(parts, LevelIdentifier())
    yield made
    made.close()


def rendered(recognizer) -> list[str]:
    registry = CollectorRegistry()
    registry.register(GateMetrics(lambda: recognizer))
    return generate_latest(registry).decode().splitlines()


def test_decisions_are_counted_by_language_recogniser_reason_and_reversal(gate):
    for reversed_ in (False, False, True):
        gate.tally(LanguageDecided("kn", 0.9, 0.5, "evidence", "rec-kn", reversed_))
    gate.tally(GateTrouble("rec-kn cannot take over"))
    lines = rendered(gate)
    labels = 'language="kn",reason="evidence",recognizer="rec-kn"'
    assert f'voice_agent_gate_decisions_total{{{labels},reversed="false"}} 2.0' in lines
    assert f'voice_agent_gate_decisions_total{{{labels},reversed="true"}} 1.0' in lines
    assert 'voice_agent_gate_posterior_count{language="kn",reason="evidence"} 3.0' in lines
    assert 'voice_agent_gate_speech_seconds_sum{language="kn",reason="evidence"} 1.5' in lines
    assert "voice_agent_gate_troubles_total 1.0" in lines


@pytest.mark.parametrize("recognizer", [None, ScriptedRecognizer([])], ids=["loading", "plain"])
def test_without_a_gate_there_is_nothing_to_tell(recognizer):
    assert rendered(recognizer) == []
