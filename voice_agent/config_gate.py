"""The `gate` group of the settings: several languages by ear.

No engine here, for the command line imports this before it knows what to run; a test holds the
defaults to those of `voice_agent.engine.gate_policy.GateSettings`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from voice_agent.config_group import Group

if TYPE_CHECKING:
    from voice_agent.engine.gate_policy import GateSettings

_PARTS = ("enabled", "languages", "identifier", "identifier_model")


class GateConfig(Group):
    """The language gate. `stt` serves the default language, `language`, at once.

    Attributes:
        enabled: whether there is one.
        languages: code of each further language to its recogniser: a model as `stt.model` takes
            it, e.g. {"kn": "tiny-kn"}; one model may serve several.
        identifier: what tells the languages: "embedded" (tiny-lid: English, Kannada), "ambernet",
            "ecapa" or "whisper".
        identifier_model: path or name that the identifier knows; None for its own.
        partials: of the default language, before a segment's first decision: "tentative" shows
            them, without a language; "hold" keeps them back.
        checks_s: seconds of speech at which the first decision is sought.
        threshold: posterior that decides.
        hysteresis: by how much more a language must win that replaces another.
        recheck_s: seconds of speech between later checks; 0 for none.
        window_s: seconds of audio that a later check hears.
        confirmations: later checks running that must agree before a decision is reversed.
        final_threshold: posterior that decides at a segment's end, on the whole of it.
        prior_weight: how much the caller's past counts where there is little speech.
        memory: share of the past that one more segment leaves.
        patience_s: seconds that a final which is ready waits for the identifier at most.
    """

    enabled: bool = False
    languages: dict[str, str] = Field(default={"kn": "tiny-kn"}, min_length=1)
    identifier: Literal["embedded", "ambernet", "ecapa", "whisper"] = "embedded"
    identifier_model: str | None = Field(default=None, min_length=1)
    partials: Literal["tentative", "hold"] = "tentative"
    checks_s: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    threshold: float = 0.9
    hysteresis: float = 0.02
    recheck_s: float = 1.0
    window_s: float = 2.0
    confirmations: int = 2
    final_threshold: float = 0.8
    prior_weight: float = 1.0
    memory: float = 0.6
    patience_s: float = 0.25

    @model_validator(mode="after")
    def _thresholds_make_sense(self) -> GateConfig:
        if self.enabled:
            self.policy()
        return self

    def policy(self) -> GateSettings:
        """The numbers as the engine takes them, which checks them.

        Raises:
            ValueError: one that makes no sense, named.
        """
        from voice_agent.engine.gate_policy import GateSettings

        numbers: dict[str, Any] = self.model_dump(exclude=set(_PARTS))
        return GateSettings(**numbers)
