"""Token ids to text and to words with times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
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
        parts: each surface cut at its spaces: what goes on with the word before, then new words.
    """

    surfaces: tuple[str, ...]
    tags: bool = False
    parts: tuple[tuple[str, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(tuple(s.split(" ")) for s in self.surfaces))

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

    def tag_tokens(self) -> list[int]:
        """Tokens that are a language tag each."""
        texts = enumerate(self.surfaces) if self.tags else ()
        return [token for token, text in texts if _TAG.fullmatch(text.strip())]


class Transcript:
    """The growing text of one segment: a log of tokens, and the text that they have written.

    A token costs what it adds; words with their times are worked out from the log when somebody
    asks, which for most partial texts nobody does. Token times are those of the encoder frames
    that emitted them; a word reaches from its first token's frame to the end of its last token's.
    Its confidence is the mean posterior of its tokens (calibration is the caller's).

    One thread appends; others may ask for the words of the first `count` tokens meanwhile.

    Attributes:
        tokens: ids so far.
        frames: encoder frame of the segment that emitted each.
        probs: posterior of each.
        language: from the last language tag, where the checkpoint writes them; the tag itself is
            not part of the text.
    """

    __slots__ = (
        "_text", "_written", "frame_s", "frames", "language", "probs", "tokenizer", "tokens",
    )  # fmt: skip

    def __init__(self, tokenizer: Tokenizer, frame_s: float) -> None:
        self.tokenizer = tokenizer
        self.frame_s = frame_s
        self.tokens: list[int] = []
        self.frames: list[int] = []
        self.probs: list[float] = []
        self.language: str | None = None
        self._written = ""  # the words that are done, each with a space after it
        self._text = ""  # of the word that is being written

    def append(self, token: int, frame: int, prob: float) -> None:
        """Add a token that encoder frame `frame` of the segment emitted."""
        self.frames.append(frame)
        self.probs.append(prob)
        self.tokens.append(token)
        parts, tags = self.tokenizer.parts[token], self.tokenizer.tags
        if parts[0]:
            self._text += parts[0]
            if tags:
                self._take_tag()
        for part in parts[1:]:
            if self._text:
                self._written += f"{self._text} "
            self._text = part
            if tags:
                self._take_tag()

    def _take_tag(self) -> None:
        if tag := _TAG.search(self._text):
            self.language = tag.group(1)
            self._text = self._text.replace(tag.group(), "")

    def words(self, audio_s: float | None = None, count: int | None = None) -> tuple[Word, ...]:
        """Words so far.

        Args:
            audio_s: where times are cut, since flushing runs past the audio's end.
            count: tokens to read; None for all.
        """
        parts_of, tags = self.tokenizer.parts, self.tokenizer.tags
        words: list[Word] = []
        text, start, end, prob, parts = "", 0, 0, 0.0, 0

        def close(text: str) -> None:
            if text:
                words.append(Word(text, start * self.frame_s, end * self.frame_s, prob / parts))

        for token, frame, p in zip(self.tokens[:count], self.frames, self.probs, strict=False):
            for at, part in enumerate(parts_of[token]):
                if at:
                    close(text)
                    text = ""
                if part:
                    if not text:
                        start, prob, parts = frame, 0.0, 0
                    text, end, prob, parts = text + part, frame + 1, prob + p, parts + 1
                    if tags and (tag := _TAG.search(text)):
                        text = text.replace(tag.group(), "")
        close(_TAG_BEGINS.sub("", text) if tags else text)
        if audio_s is None or not words or words[-1].end_s <= audio_s:
            return tuple(words)  # words end in the order of speaking
        return tuple(
            w
            if w.end_s <= audio_s
            else Word(w.word, min(w.start_s, audio_s), audio_s, w.confidence)
            for w in words
        )

    @property
    def text(self) -> str:
        """The segment so far, words separated by one space.

        What may be the beginning of a tag waits until it is more.
        """
        begun = _TAG_BEGINS.sub("", self._text) if self.tokenizer.tags else self._text
        return self._written + begun if begun else self._written[:-1]
