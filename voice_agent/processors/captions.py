"""Captions for the client's page, with what RTVI's own transcription messages leave out.

Each transcription also goes to the client as an RTVI server message:

    {"type": "caption", "text": "it was", "final": false, "language": "en"}
    {"type": "caption", "text": "It was.", "final": true, "language": "en",
     "words": [{"word": "It", "start_s": 0.1, "end_s": 0.3, "confidence": 0.9}, ...]}

`language` is null where the recogniser does not know it; `words` come with finals alone, with
times from the start of their segment.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipecat.frames.frames import Frame, InterimTranscriptionFrame, TranscriptionFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIServerMessageFrame

from voice_agent.engine.recognizer import Final


class Captions(FrameProcessor):
    """Sends a caption for each transcription that passes, and passes everything on."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Caption transcriptions.

        Args:
            frame: any.
            direction: of the frame.
        """
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame | InterimTranscriptionFrame):
            await self.push_frame(RTVIServerMessageFrame(data=caption_of(frame)))
        await self.push_frame(frame, direction)


def caption_of(frame: TranscriptionFrame | InterimTranscriptionFrame) -> dict[str, Any]:
    """The message of the module docstring.

    Args:
        frame: of any STT service; words are known where ours made it.
    """
    caption: dict[str, Any] = {
        "type": "caption",
        "text": frame.text,
        "final": isinstance(frame, TranscriptionFrame),
        "language": str(frame.language) if frame.language else None,
    }
    if isinstance(frame.result, Final):
        caption["words"] = [asdict(word) for word in frame.result.words]
    return caption
