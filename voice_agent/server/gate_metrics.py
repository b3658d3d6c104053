"""What the language gate decided, in Prometheus' format; read when somebody asks.

voice_agent_gate_decisions_total{language,recognizer,reason,reversed}
voice_agent_gate_posterior{language,reason}         sum and count
voice_agent_gate_speech_seconds{language,reason}    sum and count: speech that it rests on
voice_agent_gate_troubles_total
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from voice_agent.engine.gate import GatedRecognizer
from voice_agent.engine.recognizer import Recognizer


class GateMetrics(Collector):
    """Nothing at all where the recogniser that is served has no gate."""

    def __init__(self, recognizer: Callable[[], Recognizer | None]) -> None:
        """Export a recogniser's tally.

        Args:
            recognizer: returns the one that is served, or None while it loads.
        """
        self._recognizer = recognizer

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the module docstring."""
        gate = self._recognizer()
        if not isinstance(gate, GatedRecognizer):
            return
        decisions = CounterMetricFamily(
            "voice_agent_gate_decisions",
            "Languages that segments were taken for",
            labels=["language", "recognizer", "reason", "reversed"],
        )
        by = ["language", "reason"]
        posterior = SummaryMetricFamily(
            "voice_agent_gate_posterior", "Posterior of the language decided for", labels=by
        )
        speech = SummaryMetricFamily(
            "voice_agent_gate_speech_seconds", "Speech that a decision rests on", labels=by
        )
        sums: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
        for kind, total in gate.tally.decisions().items():
            reversed_ = "true" if kind.reversed else "false"
            decisions.add_metric(
                [kind.language, kind.recognizer, kind.reason, reversed_], total.count
            )
            found = sums.setdefault((kind.language, kind.reason), [])
            found.append((total.count, total.posterior, total.speech_s))
        for labels, found in sums.items():
            count, posteriors, seconds = (sum(column) for column in zip(*found, strict=True))
            posterior.add_metric(list(labels), count, posteriors)
            speech.add_metric(list(labels), count, seconds)
        yield from (decisions, posterior, speech)
        yield CounterMetricFamily(
            "voice_agent_gate_troubles",
            "Segments on which the gate could not do its work",
            value=gate.tally.troubles(),
        )
