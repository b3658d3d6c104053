"""The STT service in real Pipecat pipelines, over a recogniser that says what it is told."""

import asyncio
import threading

import numpy as np
import pytest
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    InterruptionFrame,
    MetricsFrame,
    STTMetadataFrame,
    STTMuteFrame,
    STTUpdateSettingsFrame,
    TranscriptionFrame,
)
from pipecat.metrics.metrics import STTUsageMetricsData, TTFBMetricsData
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.tests.utils import SleepFrame
from pipecat.transcriptions.language import Language

from tests.support.frames import CHUNK, RATE, audio, of_type, run, segment, started, stopped
from tests.support.scripted import ScriptedRecognizer
from voice_agent.engine.recognizer import Final
from voice_agent.services import NemotronSTTService, RecognizerSTTService

SCRIPT = [(0.2, "it"), (0.4, "it was"), (0.6, "it was the best")]
Settings = NemotronSTTService.Settings


def service(recognizer: ScriptedRecognizer, **options: object) -> NemotronSTTService:
    return NemotronSTTService(recognizer=recognizer, ttfs_p99_latency=1.0, **options)


def texts(frames) -> list[str]:
    """Transcriptions in order; finals with a full stop, those that were finalised with two."""
    found = of_type(frames, InterimTranscriptionFrame, TranscriptionFrame)
    mark = {True: "..", False: "."}
    return [
        f.text + (mark[f.finalized] if isinstance(f, TranscriptionFrame) else "") for f in found
    ]


async def test_partials_grow_into_one_finalised_final_and_nothing_follows():
    down, _ = await run(service(ScriptedRecognizer(SCRIPT)), segment(1.0))
    assert texts(down) == ["it", "it was", "it was the best", "it was the best.."]


async def test_every_segment_gets_its_own_final():
    recognizer = ScriptedRecognizer([(0.2, "one")], [(0.2, "two")])
    down, _ = await run(service(recognizer), segment(0.4), SleepFrame(0.1), segment(0.4))
    assert texts(down) == ["one", "one..", "two", "two.."]


async def test_a_partial_that_says_nothing_new_is_not_repeated():
    recognizer = ScriptedRecognizer([(0.1, ""), (0.2, "it"), (0.3, "it"), (0.4, "it was")])
    down, _ = await run(service(recognizer), segment(0.6))
    assert texts(down) == ["it", "it was", "it was.."]


async def test_an_empty_segment_pushes_nothing_and_leaves_no_mark_on_the_next():
    recognizer = ScriptedRecognizer([], [(0.2, "one")])
    stt = service(recognizer)
    down, _ = await run(stt, segment(0.4), SleepFrame(0.1), segment(0.4))
    assert texts(down) == ["one", "one.."]


async def test_a_final_that_comes_when_the_user_speaks_again_is_not_finalised():
    """It no longer ends what the user is saying; Pipecat would end the turn."""
    gate = threading.Event()
    recognizer = ScriptedRecognizer([(0.2, "one")], [(0.2, "two")], gate=gate)
    opening = asyncio.get_running_loop().call_later(0.3, gate.set)
    down, _ = await run(
        service(recognizer), segment(0.4), started(), audio(0.4), SleepFrame(0.6), stopped()
    )
    opening.cancel()
    assert texts(down) == ["one", "one.", "two", "two.."]


# Audio


async def test_a_segment_begins_with_the_pre_roll_and_no_sample_is_heard_twice():
    recognizer = ScriptedRecognizer()
    await run(
        service(recognizer, pre_roll_s=0.5),
        audio(1.04),  # ends at sample 16640
        started(),
        audio(0.4, first=16640),
        stopped(),
        audio(0.16, first=23040),
        started(),
        audio(0.16, first=25600),
        stopped(),
    )
    first, second = recognizer.opened[0].segments
    assert np.array_equal(first * 32768, np.arange(16640 - 8000, 23040))
    assert np.array_equal(second * 32768, np.arange(23040, 28160))


async def test_silence_never_reaches_the_recogniser():
    recognizer = ScriptedRecognizer()
    await run(service(recognizer), audio(0.8))
    (stream,) = recognizer.opened
    assert stream.segments == [] and stream.current == []


async def test_audio_of_another_rate_and_in_stereo_is_heard_at_16_khz_mono():
    recognizer = ScriptedRecognizer()
    tone = np.sin(np.arange(48_000) * 2 * np.pi * 440 / 48_000) * 8000
    stereo = np.stack([tone, np.zeros_like(tone)], axis=1).astype(np.int16)
    pieces = [InputAudioRawFrame(p.tobytes(), 48_000, 2) for p in np.split(stereo, 50)]
    await run(service(recognizer), started(), pieces, stopped())
    (heard,) = recognizer.opened[0].segments
    assert heard.size == pytest.approx(RATE, abs=0.03 * RATE)  # the resampler's delay
    spectrum = np.abs(np.fft.rfft(heard))
    assert np.argmax(spectrum) * RATE / heard.size == pytest.approx(440, abs=2)
    assert np.abs(heard).max() == pytest.approx(4000 / 32768, rel=0.1), "the mean of two channels"


async def test_audio_that_is_none_is_reported_once_and_the_call_goes_on():
    bad = [InputAudioRawFrame(b"\0" * 641, RATE, 2) for _ in range(3)]
    stt = service(ScriptedRecognizer(SCRIPT))
    down, up = await run(stt, bad, segment(1.0))
    (error,) = of_type(up, ErrorFrame)
    assert "641 bytes are not whole 16-bit samples" in error.error
    assert stt.is_usable
    assert texts(down)[-1] == "it was the best.."


async def test_audio_flows_on_while_the_recogniser_is_stuck():
    recognizer = ScriptedRecognizer(SCRIPT, gate=threading.Event())
    stt = service(recognizer, final_timeout_s=0.2)
    down, _ = await run(stt, started(), audio(4.0))
    assert len(of_type(down, InputAudioRawFrame)) == 50


async def test_a_muted_service_hears_nothing_and_keeps_no_pre_roll():
    recognizer = ScriptedRecognizer()
    down, _ = await run(
        service(recognizer),
        audio(0.8),
        STTMuteFrame(mute=True),
        audio(0.8),
        STTMuteFrame(mute=False),
        started(),
        audio(0.16, first=100),
        stopped(),
    )
    assert of_type(down, STTMuteFrame) == []
    (heard,) = recognizer.opened[0].segments
    assert heard.size == 2 * CHUNK and heard[0] * 32768 == 100


async def test_a_pipeline_without_a_vad_is_told_so_once(monkeypatch):
    monkeypatch.setattr("voice_agent.services.recognizer_stt.NO_VAD_WARNING_S", 1.0)
    stt = service(ScriptedRecognizer())
    _, up = await run(stt, audio(4.0))
    (error,) = of_type(up, ErrorFrame)
    assert "put a VADProcessor before it" in error.error
    assert stt.is_usable


def vad(start_s: float = 0.2) -> VADProcessor:
    analyzer = SileroVADAnalyzer(sample_rate=RATE, params=VADParams(start_secs=start_s))
    return VADProcessor(vad_analyzer=analyzer)


async def test_a_caller_who_is_silent_is_no_missing_vad(monkeypatch):
    monkeypatch.setattr("voice_agent.services.recognizer_stt.NO_VAD_WARNING_S", 1.0)
    silence = [InputAudioRawFrame(bytes(2 * CHUNK), RATE, 1) for _ in range(50)]
    _, up = await run(Pipeline([vad(), service(ScriptedRecognizer())]), silence)
    assert of_type(up, ErrorFrame) == []


async def test_a_vad_that_takes_longer_than_the_pre_roll_is_reported():
    """Or every first word would be cut, and nobody would know why."""
    stt = service(ScriptedRecognizer(), pre_roll_s=0.5)
    _, up = await run(Pipeline([vad(start_s=0.8), stt]))
    (error,) = of_type(up, ErrorFrame)
    assert "cuts first words: its pre_roll_s is 0.5" in error.error
    assert "after 0.8 s" in error.error


# What a transcription carries


async def test_the_final_carries_its_words_with_times():
    down, _ = await run(service(ScriptedRecognizer(SCRIPT)), segment(1.0))
    (final,) = of_type(down, TranscriptionFrame)
    assert isinstance(final.result, Final)
    assert [w.word for w in final.result.words] == ["it", "was", "the", "best"]
    assert final.result.words[-1].end_s == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    "code, language", [("kn", Language.KN), ("en", Language.EN), ("qqq", None), (None, None)]
)
async def test_the_language_is_the_recognisers_own(code, language):
    recognizer = ScriptedRecognizer(SCRIPT)
    down, _ = await run(service(recognizer, settings=Settings(language=code)), segment(1.0))
    (final,) = of_type(down, TranscriptionFrame)
    assert final.language == language


async def test_latency_and_the_audio_of_each_segment_are_reported():
    stt = service(ScriptedRecognizer(SCRIPT), pre_roll_s=0.0)
    params = PipelineParams(enable_metrics=True, enable_usage_metrics=True)
    segments = [*segment(0.96), SleepFrame(0.1), *audio(0.8), *segment(0.64), SleepFrame(0.1)]
    down, _ = await run(stt, segments, pipeline_params=params)
    data = [item for frame in of_type(down, MetricsFrame) for item in frame.data]
    usage = [item.value.audio_seconds for item in data if isinstance(item, STTUsageMetricsData)]
    assert usage == pytest.approx([0.96, 0.64]), "one for each, and none for the silence"
    assert len([i for i in data if isinstance(i, TTFBMetricsData) and i.value > 0]) == 2


async def test_the_latency_that_turns_wait_for_is_announced():
    down, _ = await run(service(ScriptedRecognizer()))
    (metadata,) = of_type(down, STTMetadataFrame)
    assert metadata.ttfs_p99_latency == 1.0


# Interruptions


class Slow(FrameProcessor):
    """Takes its time for every frame, so that the next ones wait in its queue."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InterimTranscriptionFrame):
            await asyncio.sleep(0.3)
        await self.push_frame(frame, direction)


async def test_an_interruption_does_not_drop_a_final_that_waits_in_a_queue():
    stt = service(ScriptedRecognizer([(0.2, "stop")]))
    down, _ = await run(
        Pipeline([stt, Slow()]), segment(0.4), SleepFrame(0.1), InterruptionFrame(), SleepFrame(0.4)
    )
    assert texts(down) == ["stop.."], "the interim was dropped, the final was not"


# Failures


async def test_a_failed_recogniser_is_a_permanent_error():
    recognizer = ScriptedRecognizer(SCRIPT)
    stt = service(recognizer)
    asyncio.get_running_loop().call_later(0.2, lambda: recognizer.opened[0].fail())
    _, up = await run(stt, started(), audio(0.4), SleepFrame(0.5), stopped())
    (error,) = of_type(up, ErrorFrame)
    assert "cannot transcribe: the device fell off the bus" in error.error
    assert not stt.is_usable
    assert recognizer.streams == []


async def test_a_full_recogniser_is_a_permanent_error_and_not_a_deaf_pipeline():
    recognizer = ScriptedRecognizer(slots=0)
    stt = service(recognizer)
    _, up = await run(stt, SleepFrame(0.1))
    (error,) = of_type(up, ErrorFrame)
    assert "all 0 slots are in use" in error.error
    assert not stt.is_usable


async def test_a_model_that_cannot_be_loaded_is_a_permanent_error():
    stt = NemotronSTTService(model="/nowhere/such.nemo", ttfs_p99_latency=1.0)
    _, up = await run(stt, SleepFrame(0.1))
    (error,) = of_type(up, ErrorFrame)
    assert "/nowhere/such.nemo" in error.error
    assert not stt.is_usable


async def test_a_recogniser_that_owes_a_final_too_long_is_given_up():
    recognizer = ScriptedRecognizer(SCRIPT, gate=threading.Event())
    stt = service(recognizer, final_timeout_s=0.1)
    _, up = await run(stt, segment(0.4))
    (error,) = of_type(up, ErrorFrame)
    assert "no final within 0.1 s" in error.error
    assert not stt.is_usable


# Settings


async def test_a_change_in_mid_segment_takes_effect_with_the_next():
    recognizer = ScriptedRecognizer([(0.2, "word")])
    await run(
        service(recognizer, settings=Settings(language="en")),
        started(),
        audio(0.4),
        STTUpdateSettingsFrame(delta=Settings(language="kn", right_context=6)),
        SleepFrame(0.1),
        audio(0.4),
        stopped(),
        SleepFrame(0.2),
        segment(0.4),
    )
    first, second = recognizer.opened
    assert (first.options.language, first.options.right_context) == ("en", None)
    assert (second.options.language, second.options.right_context) == ("kn", 6)
    assert [round(s.size / RATE, 2) for s in first.segments] == [0.8], "no audio was lost"
    assert [round(s.size / RATE, 2) for s in second.segments] == [0.4]


class Picky(ScriptedRecognizer):
    """Serves look-aheads of 0 and 1."""

    def open(self, on_event, *, options=None, **rest):
        if options is not None and options.right_context not in (None, 0, 1):
            raise ValueError(f"right_context is 0 or 1, got {options.right_context}")
        return super().open(on_event, options=options, **rest)


async def test_a_change_that_the_recogniser_refuses_is_reported_and_the_call_goes_on():
    recognizer = Picky(SCRIPT)
    stt = service(recognizer, settings=Settings(right_context=1))
    update = STTUpdateSettingsFrame(delta=Settings(right_context=5, language="kn"))
    down, up = await run(stt, update, SleepFrame(0.1), segment(1.0))
    (error,) = of_type(up, ErrorFrame)
    assert "keeps its settings: right_context is 0 or 1, got 5" in error.error
    assert stt.is_usable
    assert recognizer.opened[-1].options.right_context == 1
    assert recognizer.opened[-1].options.language == "en"
    assert texts(down)[-1] == "it was the best.."


async def test_an_update_for_another_service_changes_nothing():
    recognizer = ScriptedRecognizer()
    other = service(ScriptedRecognizer())
    update = STTUpdateSettingsFrame(delta=Settings(language="kn"), service=other)
    await run(service(recognizer), update)
    assert len(recognizer.opened) == 1


# Teardown


async def test_the_end_waits_for_the_final_that_is_owed():
    gate = threading.Event()
    asyncio.get_running_loop().call_later(0.3, gate.set)
    down, _ = await run(service(ScriptedRecognizer(SCRIPT, gate=gate)), segment(1.0))
    assert texts(down)[-1] == "it was the best.."


async def test_the_end_finishes_a_segment_that_goes_on():
    down, _ = await run(service(ScriptedRecognizer(SCRIPT)), started(), audio(1.0))
    assert texts(down)[-1] == "it was the best."


async def test_teardown_is_idempotent_and_frees_the_slot():
    recognizer = ScriptedRecognizer(SCRIPT, slots=1)
    for _ in range(3):
        stt = service(recognizer)
        await run(stt, segment(0.4))
        await stt.cleanup()
        await stt.cleanup()
    assert recognizer.streams == []
    assert len(recognizer.opened) == 3


async def test_a_service_that_never_started_can_be_cleaned_up():
    await service(ScriptedRecognizer()).cleanup()


async def test_the_general_service_serves_any_recogniser():
    stt = RecognizerSTTService(recognizer=ScriptedRecognizer(SCRIPT), ttfs_p99_latency=1.0)
    down, _ = await run(stt, segment(1.0))
    assert texts(down)[-1] == "it was the best.."
