"""The recogniser for cache-aware FastConformer-RNNT checkpoints: Nemotron Speech and tiny-en."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voice_agent.engine.boosting import PhraseBoost, Vocabulary
from voice_agent.engine.chunks import Chunks
from voice_agent.engine.outside import Outside
from voice_agent.engine.recognizer import (
    SAMPLE_RATE,
    SEARCHES,
    Deliver,
    FinalPass,
    OnEvent,
    StreamOptions,
    deliver_here,
)
from voice_agent.engine.scheduler import Recorder, Runner, Scheduler
from voice_agent.engine.stats import Stats
from voice_agent.engine.streams import EngineStream
from voice_agent.engine.text import Transcript

if TYPE_CHECKING:
    from voice_agent.engine.checkpoint import Checkpoint


class NemotronRecognizer:
    """Weights on a device, a slot pool, and the thread that owns both.

    Attributes:
        name: what the checkpoint was asked for by.
        languages: BCP-47 codes that it writes; empty where the checkpoint does not say.
        streaming: True: partials come while audio arrives.
        execution: "eager": each step launches its operations one by one; "graph" where a captured
            graph is replayed.
        device: where it computes, e.g. "cpu" or "cuda:0".
        right_contexts: look-aheads that the checkpoint was trained for, in encoder frames.
        right_context: the default look-ahead of a stream.
        final_pass: what a stream's finals come from by default.
    """

    streaming = True

    def __init__(
        self,
        checkpoint: Checkpoint,
        runner: Runner,
        *,
        slots: int,
        device: str = "cpu",
        right_context: int | None = None,
        languages: tuple[str, ...] = (),
        final_pass: FinalPass = "stream",
    ) -> None:
        """Start the engine thread over a runner that holds the checkpoint.

        Args:
            checkpoint: names, sizes and tokenizer.
            runner: the checkpoint on its device, with `slots` slots.
            slots: streams at most.
            device: for messages.
            right_context: default look-ahead; None takes the shortest that was trained.
            languages: what it writes.
            final_pass: default one, see `StreamOptions`; a runner that has no search streams.

        Raises:
            ValueError: a right context that the checkpoint was not trained for, or no tokenizer.
        """
        config = checkpoint.config
        self.name = checkpoint.name
        self.languages = languages
        self.device = device
        self.execution: str = getattr(runner, "mode", "eager")
        self.right_contexts = config.encoder.right_contexts
        self.right_context = self._right(right_context, default=self.right_contexts[0])
        if checkpoint.tokenizer is None:
            raise ValueError(f"{self.name} has no tokenizer, so it cannot write")
        tokenizer = checkpoint.tokenizer
        self._prompt = config.prompt
        self._boosts = runner.boosts
        # A runner that leaves decoding to somebody else, as NeMo's does, has no search.
        self._passes = {"stream", "full"} | (SEARCHES if hasattr(runner, "search") else set())
        self.final_pass: FinalPass = final_pass if final_pass in self._passes else "stream"
        self._vocabulary = Vocabulary(tokenizer.surfaces if runner.boosts else ())
        # Callers of one service tend to bring the same list; streams share what it compiles to.
        self._compiled = functools.lru_cache(maxsize=64)(self._compile)
        language = languages[0] if len(languages) == 1 else None
        self._scheduler = Scheduler(
            runner,
            {right: Chunks.of(config, right) for right in self.right_contexts},
            lambda: Transcript(tokenizer, config.frame_s),
            slots=slots,
            language=language,
        )
        self.outside = Outside(
            self._scheduler.rings, self._scheduler.wake, self._scheduler.takers, tokenizer,
            config.frame_s, language,
        )  # fmt: skip
        self._scheduler.start(f"engine-{Path(self.name).stem}")

    def _right(self, right: int | None, default: int) -> int:
        if right is None:
            return default
        if right not in self.right_contexts:
            raise ValueError(
                f"right_context {right} is not one of {self.name}'s: "
                f"{', '.join(map(str, self.right_contexts))}"
            )
        return right

    @property
    def stats(self) -> Stats:
        """Counters of the engine thread."""
        return self._scheduler.stats

    def record_lags(self, recorder: Recorder | None) -> None:
        """Have the lag of every chunk told, on the engine thread; None to end it.

        Args:
            recorder: called after each step's events were posted, with the slots of its lanes
                (int64), when the audio of each was there (monotonic seconds), and the time now.
        """
        self._scheduler.recorder = recorder

    def chunk_s(self, right_context: int | None = None) -> float:
        """Seconds of a chunk, by look-ahead; None for the default one."""
        right = self._right(right_context, default=self.right_context)
        return self._scheduler.chunks[right].samples / SAMPLE_RATE

    def open(
        self,
        on_event: OnEvent,
        *,
        deliver: Deliver = deliver_here,
        options: StreamOptions | None = None,
    ) -> EngineStream:
        """Claim a slot; see `Recognizer.open`."""
        options = options or StreamOptions()
        if options.final_pass is None:
            options = replace(options, final_pass=self.final_pass)
        boost = self._boost(options.extra)
        if options.final_pass not in self._passes:
            raise ValueError(f"{self.name} does not know final_pass={options.final_pass!r}")
        if self._prompt:
            self._prompt.index(options.language)
        primary = (options.language or "").split("-")[0].lower()
        if primary and self.languages and primary not in self.languages:
            raise ValueError(
                f"{self.name} writes {', '.join(self.languages)}, not {options.language!r}"
            )
        right = self._right(options.right_context, default=self.right_context)
        return self._scheduler.open(on_event, deliver, options, right, boost)

    def _boost(self, extra: Mapping[str, Any]) -> PhraseBoost | None:
        """What the option `phrases` asks for: boosts by phrase (`boosting.PhraseBoost`)."""
        known = {"phrases"} if self._boosts else set()
        if unknown := extra.keys() - known:
            raise ValueError(f"{self.name} does not know the option {min(unknown)!r}")
        phrases = extra.get("phrases")
        return self._compiled(tuple(phrases.items())) if phrases else None

    def _compile(self, phrases: tuple[tuple[str, float | None], ...]) -> PhraseBoost:
        return PhraseBoost(dict(phrases), self._vocabulary)

    def close(self) -> None:
        """Stop the engine thread; see `Recognizer.close`."""
        self._scheduler.stop()
