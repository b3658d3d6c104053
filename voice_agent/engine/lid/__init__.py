"""Which language is it? Identifiers hear a segment's audio so far and give posteriors.

    base       the protocol, the scores, how much of the audio is speech
    tiny       `tiny-lid`, the embedded identifier: English, Kannada, other
    features   its log-mel features
    ambernet   NVIDIA's AmberNet, 107 languages, through NeMo
    ecapa      SpeechBrain's ECAPA-TDNN trained on VoxLingua107
    whisper    faster-whisper's language detection
    loading    a backend's name to an identifier

Codes are BCP-47. An identifier's calls may come from any thread, one at a time.
"""

from __future__ import annotations

from voice_agent.engine.lid.base import (
    LanguageIdentifier,
    LanguageScores,
    SpeechMeter,
    speech_seconds,
)
from voice_agent.engine.lid.loading import BACKENDS, load_language_identifier

__all__ = [
    "BACKENDS",
    "LanguageIdentifier",
    "LanguageScores",
    "SpeechMeter",
    "load_language_identifier",
    "speech_seconds",
]
