"""Token ids to text and to words with times."""

from __future__ import annotations

from voice_agent.engine.recognizer import Word

_SPACE = "\u2581"  # sentencepiece's mark for "a word begins here"


class Tokenizer:
    """A sentencepiece model."""

    def __init__(self, model: bytes) -> None:
        """Load a serialised model.

        Raises:
            RuntimeError: the bytes are not a sentencepiece model.
        """
        import sentencepiece

        self.processor = sentencepiece.SentencePieceProcessor()
        self.processor.LoadFromSerializedProto(model)
        size = self.processor.GetPieceSize()
        self.pieces = [self.processor.IdToPiece(i) for i in range(size)]
        self.unknown = {i for i in range(size) if self.processor.IsUnknown(i)}
        self.control = {i for i in range(size) if self.processor.IsControl(i)}

    def __len__(self) -> int:
        return len(self.pieces)

    def piece(self, token: int) -> str:
        """Surface of one token; a leading space marks the start of a word."""
        if token in self.control:
            return ""
        if token in self.unknown:
            return " \u2047 "  # as SentencePieceProcessor.decode writes it
        return self.pieces[token].replace(_SPACE, " ")

    def decode(self, tokens: list[int]) -> str:
        """Text of a sequence."""
        return self.processor.DecodeIds(tokens)


class Transcript:
    """The growing text of one segment, kept by words so that a token costs what it adds.

    Token times are those of the encoder frames that emitted them; a word reaches from its first
    token's frame to the end of its last token's. Its confidence is the mean posterior of its
    tokens (calibration is the caller's).
    """

    def __init__(self, tokenizer: Tokenizer, frame_s: float) -> None:
        self.tokenizer = tokenizer
        self.frame_s = frame_s
        self.tokens: list[int] = []
        self._done: list[Word] = []
        self._text = ""
        self._span = [0, 0]
        self._probs: list[float] = []

    def append(self, token: int, frame: int, prob: float) -> None:
        """Add a token that encoder frame `frame` of the segment emitted."""
        self.tokens.append(token)
        first, *rest = self.tokenizer.piece(token).split(" ")
        self._extend(first, frame, prob)
        for part in rest:
            self._close()
            self._extend(part, frame, prob)

    def _extend(self, part: str, frame: int, prob: float) -> None:
        if not part:
            return
        if not self._text:
            self._span[0] = frame
            self._probs = []
        self._text += part
        self._span[1] = frame + 1
        self._probs.append(prob)

    def _word(self) -> Word:
        start, end = (f * self.frame_s for f in self._span)
        return Word(self._text, start, end, sum(self._probs) / len(self._probs))

    def _close(self) -> None:
        if self._text:
            self._done.append(self._word())
        self._text = ""

    def words(self, audio_s: float | None = None) -> tuple[Word, ...]:
        """Words so far; times are cut at `audio_s`, since flushing runs past the audio's end."""
        words = [*self._done, self._word()] if self._text else self._done
        if audio_s is None:
            return tuple(words)
        return tuple(
            w
            if w.end_s <= audio_s
            else Word(w.word, min(w.start_s, audio_s), audio_s, w.confidence)
            for w in words
        )

    @property
    def text(self) -> str:
        """The segment so far, words separated by one space."""
        words = [w.word for w in self._done]
        if self._text:
            words.append(self._text)
        return " ".join(words)
