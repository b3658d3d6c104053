"""Token ids to text and to words with times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from voice_agent.engine.recognizer import Word

_SPACE = "\u2581"  # sentencepiece's mark for "a word begins here"
_TAG = re.compile(r"<([a-z]{2,3}-[A-Z]{2})>")
_TAG_BEGINS = re.compile(r"<([a-z]{1,3}(-[A-Z]{0,2})?)?$")


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Surfaces by token id.

    Attributes:
        surfaces: text of each token; a leading space marks the start of a word.
        tags: whether the text may hold language tags such as `<en-US>`.
    """

    surfaces: tuple[str, ...]
    tags: bool = False

    @classmethod
    def from_sentencepiece(cls, model: bytes, *, tags: bool = False) -> Tokenizer:
        """Read a serialised sentencepiece model, as `.nemo` files hold it.

        Raises:
            RuntimeError: the bytes are not a sentencepiece model.
        """
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(model)

        def surface(token: int) -> str:
            if processor.IsControl(token):
                return ""
            if processor.IsUnknown(token):
                return " \u2047 "  # as SentencePieceProcessor.decode writes it
            return str(processor.IdToPiece(token)).replace(_SPACE, " ")

        return cls(tuple(surface(i) for i in range(processor.GetPieceSize())), tags)

    @classmethod
    def from_json(cls, tokenizer: Mapping[str, Any], *, tags: bool = False) -> Tokenizer:
        """Read a `tokenizer.json`, as Hugging Face directories hold it.

        Raises:
            KeyError: no vocabulary in it.
        """
        vocabulary = tokenizer["model"]["vocab"]
        if isinstance(vocabulary, list):  # a Unigram model: [piece, score] by id
            vocabulary = {piece: i for i, (piece, _) in enumerate(vocabulary)}
        unknown = tokenizer["model"].get("unk_token") or "<unk>"
        pieces = dict.fromkeys(range(max(vocabulary.values()) + 1), "")
        pieces |= {i: piece.replace(_SPACE, " ") for piece, i in vocabulary.items()}
        if unknown in vocabulary:
            pieces[vocabulary[unknown]] = " \u2047 "
        for token in tokenizer.get("added_tokens", ()):
            content = token["content"]
            if token.get("special") and content != unknown and not _TAG.fullmatch(content):
                pieces[token["id"]] = ""
            elif content != unknown:
                pieces[token["id"]] = content
        return cls(tuple(pieces.get(i, "") for i in range(max(pieces) + 1)), tags)

    def __len__(self) -> int:
        return len(self.surfaces)


class Transcript:
    """The growing text of one segment, kept by words so that a token costs what it adds.

    Token times are those of the encoder frames that emitted them; a word reaches from its first
    token's frame to the end of its last token's. Its confidence is the mean posterior of its
    tokens (calibration is the caller's).

    Attributes:
        tokens: ids so far.
        language: from the last language tag, where the checkpoint writes them; the tag itself is
            not part of the text.
    """

    def __init__(self, tokenizer: Tokenizer, frame_s: float) -> None:
        self.tokenizer = tokenizer
        self.frame_s = frame_s
        self.tokens: list[int] = []
        self.language: str | None = None
        self._done: list[Word] = []
        self._text = ""
        self._span = [0, 0]
        self._probs: list[float] = []

    def append(self, token: int, frame: int, prob: float) -> None:
        """Add a token that encoder frame `frame` of the segment emitted."""
        self.tokens.append(token)
        first, *rest = self.tokenizer.surfaces[token].split(" ")
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

        if self.tokenizer.tags and (tag := _TAG.search(self._text)):
            self.language = tag.group(1)
            self._text = self._text.replace(tag.group(), "")

    def _word(self) -> Word:
        start, end = (f * self.frame_s for f in self._span)
        return Word(self._text, start, end, sum(self._probs) / len(self._probs))

    def _close(self) -> None:
        if self._text:
            self._done.append(self._word())
        self._text = ""

    def _current(self) -> list[Word]:
        """Words so far; what may be the beginning of a tag waits until it is more."""
        if not self._text:
            return self._done
        word = self._word()
        if self.tokenizer.tags:
            word = replace(word, word=_TAG_BEGINS.sub("", word.word))
        return [*self._done, word] if word.word else self._done

    def words(self, audio_s: float | None = None) -> tuple[Word, ...]:
        """Words so far; times are cut at `audio_s`, since flushing runs past the audio's end."""
        words = self._current()
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
        return " ".join(w.word for w in self._current())
