"""Transcripts and errors as OpenAI's API writes them. Pure."""

from __future__ import annotations

import json
import math
import zlib
from typing import Any, Literal, get_args

from voice_agent.transcribe.formats import to_srt, to_vtt
from voice_agent.transcribe.transcriber import Segment, Transcript

OpenAIFormat = Literal["json", "verbose_json", "text", "srt", "vtt"]
FORMATS: tuple[str, ...] = get_args(OpenAIFormat)
_LEAST_CONFIDENCE = 1e-4  # its logarithm must be finite


def render(
    transcript: Transcript, heard_s: float, kind: OpenAIFormat, granularities: frozenset[str]
) -> tuple[str, str]:
    """A finished transcript.

    Args:
        transcript: of the whole recording.
        heard_s: its length in seconds.
        kind: the format.
        granularities: "segment" and "word", of verbose_json.

    Returns:
        The body, and its media type.
    """
    match kind:
        case "text":
            return f"{transcript.text}\n", "text/plain"
        case "srt":
            return to_srt(transcript), "application/x-subrip"
        case "vtt":
            return to_vtt(transcript), "text/vtt"
        case "json":
            return _json({"text": transcript.text, "usage": _usage(heard_s)})
        case "verbose_json":
            return _json(_verbose(transcript, heard_s, granularities))


def segment_event(segment: Segment, *, first: bool) -> dict[str, object]:
    """A segment as `transcript.text.delta`; deltas joined are the text."""
    return {"type": "transcript.text.delta", "delta": segment.text if first else f" {segment.text}"}


def done_event(transcript: Transcript, heard_s: float) -> dict[str, object]:
    """The end as `transcript.text.done`."""
    return {"type": "transcript.text.done", "text": transcript.text, "usage": _usage(heard_s)}


def openai_error(message: str, status: int, reason: str) -> dict[str, object]:
    """The body of an error.

    Args:
        message: one sentence.
        status: HTTP status, of which the error's type follows.
        reason: one word; the field's name where a field is wrong.
    """
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    param = reason if status == 400 else None
    return {"error": {"message": message, "type": kind, "param": param, "code": reason}}


def _verbose(
    transcript: Transcript, heard_s: float, granularities: frozenset[str]
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "task": "transcribe",
        "language": transcript.language or "",
        "duration": round(heard_s, 3),
        "text": transcript.text,
        "usage": _usage(heard_s),
    }
    if "segment" in granularities:
        body["segments"] = [_segment(i, segment) for i, segment in enumerate(transcript.segments)]
    if "word" in granularities:
        body["words"] = [
            {"word": w.word, "start": round(w.start_s, 3), "end": round(w.end_s, 3)}
            for segment in transcript.segments
            for w in segment.words
        ]
    return body


def _segment(index: int, segment: Segment) -> dict[str, Any]:
    """One segment under Whisper's key names, those that mean nothing here at their neutral value.

    `avg_logprob` is the mean over words of the log of their confidence.
    """
    logs = [math.log(max(_LEAST_CONFIDENCE, w.confidence)) for w in segment.words]
    text = segment.text.encode()
    return {
        "id": index,
        "seek": 0,
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": 0.0,
        "avg_logprob": round(sum(logs) / len(logs), 4) if logs else 0.0,
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 4),
        "no_speech_prob": 0.0,
    }


def _usage(heard_s: float) -> dict[str, object]:
    return {"type": "duration", "seconds": round(heard_s, 3)}


def _json(body: dict[str, Any]) -> tuple[str, str]:
    return json.dumps(body, ensure_ascii=False), "application/json"
