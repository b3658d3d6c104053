"""A session's outputs in Deepgram's words: what the messages of `/v1/listen` say."""

from __future__ import annotations

import datetime
import string
import uuid

from voice_agent.engine.recognizer import Word
from voice_agent.server.listen_query import ListenQuery
from voice_agent.server.transcription import Interim, Segment
from voice_agent.wire import (
    Alternative,
    Channel,
    Metadata,
    ModelInfo,
    ResultMetadata,
    Results,
    WordInfo,
)


class Writer:
    """Writes one session's messages.

    Attributes:
        request_id: for logs and the client.
    """

    def __init__(
        self, query: ListenQuery, model: str, channels: int, request_id: str | None = None
    ) -> None:
        """Begin a session.

        Args:
            query: what the client asked for.
            model: name of the recogniser.
            channels: how many are transcribed.
            request_id: of the session; None for a new one.
        """
        self.request_id = request_id or str(uuid.uuid4())
        self._query = query
        self._channels = channels
        self._created = datetime.datetime.now(datetime.UTC)
        self._metadata = ResultMetadata(
            request_id=self.request_id,
            model_info=ModelInfo(name=model, version="1", arch="fastconformer-rnnt"),
            model_uuid=str(uuid.uuid5(uuid.NAMESPACE_URL, model)),
            extra=dict(query.extra) or None,
        )

    def index(self, channel: int) -> tuple[int, int]:
        """A channel, of how many."""
        return channel, self._channels

    def results(self, result: Interim | Segment) -> Results:
        """What was heard so far, or in all."""
        final = isinstance(result, Segment)
        cause = result.cause if isinstance(result, Segment) else None
        words = [_word(word) for word in result.words]
        text = result.text if self._query.punctuate else " ".join(w.word for w in words)
        confidence = sum(w.confidence for w in words) / len(words) if words else 0.0
        languages = [result.language] if self._query.multi and result.language else None
        return Results(
            channel_index=self.index(result.channel),
            start=seconds(result.start_s),
            duration=seconds(result.end_s - result.start_s),
            is_final=final,
            speech_final=final and cause != "length",
            from_finalize=cause == "client",
            channel=Channel(
                alternatives=[
                    Alternative(
                        transcript=text,
                        confidence=round(confidence, 4),
                        words=words,
                        languages=languages,
                    )
                ]
            ),
            metadata=self._metadata,
        )

    def summary(self, heard_s: float, sha256: str) -> Metadata:
        """The last message.

        Args:
            heard_s: seconds of audio.
            sha256: of all audio bytes.
        """
        return Metadata(
            request_id=self.request_id,
            sha256=sha256,
            created=self._created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            duration=seconds(heard_s),
            channels=self._query.channels,
            models=[self._metadata.model_info.name],
            tags=list(self._query.tags) or None,
            extra=self._metadata.extra,
        )


def seconds(value: float) -> float:
    """Seconds as they are written: to the millisecond."""
    return round(max(0.0, value), 3)


def _word(word: Word) -> WordInfo:
    bare = word.word.strip(string.punctuation).lower()
    return WordInfo(
        word=bare or word.word,
        punctuated_word=word.word,
        start=seconds(word.start_s),
        end=seconds(word.end_s),
        confidence=round(min(1.0, max(0.0, word.confidence)), 4),
    )
