"""The gate under every order of events that Hypothesis can think of."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.engine.gate_fixtures import LevelIdentifier, ManualRecognizer, speech
from voice_agent.engine.gate import GateTrouble, LanguageDecided
from voice_agent.engine.gate_ear import Ear
from voice_agent.engine.gate_policy import GateSettings
from voice_agent.engine.gate_stream import GatedStream
from voice_agent.engine.recognizer import Final, Partial, StreamOptions, deliver_here

LANGUAGES = ("en", "kn", "hi")


class Calls(RuleBasedStateMachine):
    """Audio, ends, cancels, answers and events come in any order; the protocol holds throughout."""

    @initialize(partials=st.sampled_from(["tentative", "hold"]), slots=st.integers(1, 3))
    def call(self, partials, slots):
        self.recognizers = {code: ManualRecognizer(code, slots) for code in LANGUAGES}
        # The default one may always be opened again: what happens else is a test of its own.
        self.recognizers["en"].slots = 100
        self.ear = Ear(LevelIdentifier(LANGUAGES))
        self.events: list = []
        self.fed = 0
        self.ended: list[int] = []  # samples of each segment that was ended, in order
        self.stream = GatedStream(
            self.recognizers,
            GateSettings(languages=LANGUAGES, partials=partials, patience_s=600.0),
            self.ear,
            self.events.append,
            deliver=deliver_here,
            options=StreamOptions(),
            observe=lambda _: None,
        )

    @rule(language=st.sampled_from([*LANGUAGES, "noise", "silence"]), tenths=st.integers(1, 20))
    def feed(self, language, tenths):
        pcm = speech(language, tenths / 10)
        self.stream.feed(pcm)
        self.fed += pcm.size

    @rule()
    def finish(self):
        self.stream.finish()
        self.ended.append(self.fed)
        self.fed = 0

    @rule()
    def cancel(self):
        self.stream.cancel()
        self.fed = 0
        if len(self._finals()) == len(self.ended):  # else nothing of it was told yet
            self.events.append("cancelled")

    @rule()
    def answer(self):
        self.ear.answer()

    def _finals(self):
        return [e for e in self.events if isinstance(e, Final)]

    def _streams(self):
        return [s for r in self.recognizers.values() for s in r.streams]

    @precondition(lambda self: self._streams())
    @rule(data=st.data(), final=st.booleans())
    def emit(self, data, final):
        stream = data.draw(st.sampled_from(self._streams()))
        if final:
            stream.final()
        else:
            stream.partial()

    @rule(code=st.sampled_from(["kn", "hi"]))
    def fail(self, code):
        for stream in list(self.recognizers[code].streams):
            stream.fail()

    @invariant()
    def finals_come_in_order_each_once_and_whole(self):
        finals = self._finals()
        assert len(finals) <= len(self.ended)
        for final, samples in zip(finals, self.ended, strict=False):
            assert final.text == f"{final.language} {samples}"

    @invariant()
    def no_partial_is_in_another_language_than_was_decided(self):
        decided = writing = None
        for event in self.events:
            match event:
                case LanguageDecided():
                    decided, writing = event.language, event.recognizer
                case GateTrouble():
                    writing = None
                case Partial():
                    written = event.text.split()[0]
                    assert event.language in (None, decided)
                    if event.language is not None:
                        assert written == event.language
                    if writing == f"rec-{decided}":
                        assert written == decided
                case Final() | "cancelled":
                    decided = writing = None

    def teardown(self):
        if not hasattr(self, "stream"):
            return
        moved = True
        while moved:
            moved = self.ear.answer()
            for stream in self._streams():
                moved |= stream.final()
        assert len(self._finals()) == len(self.ended)
        self.finals_come_in_order_each_once_and_whole()
        self.stream.close()
        assert self._streams() == []


Calls.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestCalls = Calls.TestCase
