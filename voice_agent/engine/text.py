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

    __slots__ = (
        "_count", "_done", "_first", "_last", "_prob", "_tagged", "_text", "_written", "frame_s",
        "language", "tokenizer", "tokens",
    )  # fmt: skip

    def __init__(self, tokenizer: Tokenizer, frame_s: float) -> None:
        self.tokenizer = tokenizer
        self.frame_s = frame_s
        self.tokens: list[int] = []
        self.language: str | None = None
        self._tagged = tokenizer.tags
        self._done: tuple[Word, ...] = ()
        self._written = ""  # the done words, each with a space after it
        self._text = ""  # of the word that is being written
        self._first = self._last = 0  # its frames
        self._prob = 0.0  # the sum over its tokens
        self._count = 0

    def append(self, token: int, frame: int, prob: float) -> None:
        """Add a token that encoder frame `frame` of the segment emitted."""
        self.tokens.append(token)
        surface = self.tokenizer.surfaces[token]
        if " " not in surface:
            self._extend(surface, frame, prob)
            return
        first, *rest = surface.split(" ")
        self._extend(first, frame, prob)
        for part in rest:
            self._close()
            self._extend(part, frame, prob)

    def _extend(self, part: str, frame: int, prob: float) -> None:
        if not part:
            return
        if not self._text:
            self._first = frame
            self._prob, self._count = 0.0, 0
        self._text += part
        self._last = frame + 1
        self._prob += prob
        self._count += 1
        if self._tagged and (tag := _TAG.search(self._text)):
            self.language = tag.group(1)
            self._text = self._text.replace(tag.group(), "")

    def _word(self) -> Word:
        start_s, end_s = self._first * self.frame_s, self._last * self.frame_s
        return Word(self._text, start_s, end_s, self._prob / self._count)

    def _close(self) -> None:
        if self._text:
            self._done = (*self._done, self._word())
            self._written += f"{self._text} "
        self._text = ""

    def _begun(self) -> str:
        """The word that is being written; what may be the beginning of a tag waits for more."""
        return _TAG_BEGINS.sub("", self._text) if self._tagged else self._text

    def words(self, audio_s: float | None = None) -> tuple[Word, ...]:
        """Words so far; times are cut at `audio_s`, since flushing runs past the audio's end."""
        words = self._done
        if begun := self._begun():
            word = self._word()
            words = (*words, word if begun == word.word else replace(word, word=begun))
        if audio_s is None or not words or words[-1].end_s <= audio_s:
            return words  # words end in the order of speaking
        return tuple(
            w
            if w.end_s <= audio_s
            else Word(w.word, min(w.start_s, audio_s), audio_s, w.confidence)
            for w in words
        )

    @property
    def text(self) -> str:
        """The segment so far, words separated by one space."""
        return (self._written + self._begun()).rstrip(" ")
