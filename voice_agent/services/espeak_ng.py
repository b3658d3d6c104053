"""espeak-ng from its PyPI wheel: text in, 16-bit mono audio out, while it is being made.

The library keeps one global state and is not thread-safe, so we load a copy that nobody else in
the process has, one thread calls it, and utterances take their turn. That costs nobody anything:
it makes an hour of speech in seconds.

    async for pcm in espeak_ng().speak("hello", ["en-us"]): ...    # 100 ms a piece

No Pipecat here.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

# speak_lib.h, version 1.52
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_POSITION_CHARACTER = 1
_RATE = 1
_EE_OK = 0
_GO_ON, _ABORT = 0, 1

_PIECE_MS = 100
_WORDS_A_MINUTE = 175
"""espeak-ng's normal rate."""

_OnAudio = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class SpeechError(RuntimeError):
    """espeak-ng cannot say this; the message is one sentence."""


class _Voice(ctypes.Structure):
    """`espeak_VOICE`."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),  # a priority byte, then the code
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


_loading = threading.Lock()


def load_private_library() -> ctypes.CDLL:
    """Load the wheel's library with a global state of its own.

    Another user of the wheel in the process (phonemizer, Kokoro) may start, set up and end the
    library as it likes; done to ours, that is a segmentation fault in our next utterance.

    Raises:
        OSError: it cannot be read, copied or loaded.
    """
    import espeakng_loader

    path = espeakng_loader.get_library_path()
    if hasattr(os, "memfd_create"):  # a container's /tmp may forbid to execute what is in it
        # Never closed: the loader takes a second library under the same number for this one.
        descriptor = os.memfd_create("espeak-ng")
        with open(descriptor, "wb", closefd=False) as copy:
            copy.write(Path(path).read_bytes())
        return ctypes.CDLL(f"/proc/self/fd/{descriptor}")
    with tempfile.NamedTemporaryFile(prefix="espeak-ng-", suffix=".so") as file:
        shutil.copyfile(path, file.name)
        return ctypes.CDLL(file.name)


def espeak_ng() -> EspeakNg:
    """The process's espeak-ng, loaded on the first call (a few milliseconds). Any thread.

    Raises:
        SpeechError: the wheel's library or its data cannot be loaded.
    """
    with _loading:
        return _load()


@cache
def _load() -> EspeakNg:
    return EspeakNg()


class EspeakNg:
    """The loaded library; `espeak_ng()` makes the only one.

    Attributes:
        sample_rate: of the audio that it makes.
        languages: codes that it has a voice for, lower case: "en-us", "kn".
    """

    def __init__(self) -> None:
        import espeakng_loader

        self._data = Path(espeakng_loader.get_data_path())
        try:
            self._library = load_private_library()
        except OSError as error:
            raise SpeechError(f"espeak-ng cannot be loaded: {error}") from error
        self.sample_rate: int = self._library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, _PIECE_MS, str(self._data).encode(), 0
        )
        if self.sample_rate <= 0:
            raise SpeechError(f"espeak-ng does not accept its data in {self._data}")
        self.languages = frozenset(self._list_languages())
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="espeak-ng")

    def _list_languages(self) -> list[str]:
        self._library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        voices = self._library.espeak_ListVoices(None)
        found = []
        for voice in voices:
            if not voice:
                break
            code = voice.contents.languages[1:].decode()
            # "en-gb" is the name of the voice that also answers to "en".
            found += [code, voice.contents.identifier.decode().rpartition("/")[2].lower()]
        return found

    def has_voice(self, voice: str) -> bool:
        """Whether there is such a voice: a language, with or without "+" and a variant.

        Args:
            voice: "kn", "en-us+f3".
        """
        language, plus, variant = voice.partition("+")
        known_variant = not plus or (self._data / "voices" / "!v" / variant).is_file()
        return language.lower() in self.languages and known_variant

    async def speak(
        self, text: str, voice: str, *, rate: float = 1.0
    ) -> AsyncGenerator[bytes, None]:
        """Say a text.

        Leaving the iteration, by `break` in `contextlib.aclosing` or by cancellation, stops the
        synthesis within a piece.

        Args:
            text: in the voice's language.
            voice: as for `has_voice`.
            rate: relative to the normal one.

        Yields:
            16-bit mono PCM at `sample_rate`, about 100 ms a piece, as soon as it is made.

        Raises:
            SpeechError: no such voice, or espeak-ng gives up.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        stop = threading.Event()

        def tell(piece: bytes | None) -> None:
            try:
                loop.call_soon_threadsafe(pieces.put_nowait, piece)
            except RuntimeError:  # the loop was closed: nobody listens any more
                stop.set()

        def on_audio(samples: Sequence[int], count: int, _events: object) -> int:
            if count and samples:
                pcm = ctypes.string_at(samples, 2 * count)  # type: ignore[arg-type]
                tell(pcm)
            return _ABORT if stop.is_set() else _GO_ON

        def run() -> None:
            try:
                if not stop.is_set():  # else nobody waits for it any more
                    self._synthesise(text, voice, rate, _OnAudio(on_audio))
            finally:
                tell(None)

        done = loop.run_in_executor(self._thread, run)
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await done
        finally:
            stop.set()

    def _synthesise(self, text: str, voice: str, rate: float, on_audio: object) -> None:
        """On the library's thread. The caller keeps `on_audio` alive until it returns."""
        library = self._library
        # The library takes any variant for a good one, and then speaks without it.
        if not self.has_voice(voice) or library.espeak_SetVoiceByName(voice.encode()) != _EE_OK:
            raise SpeechError(f"espeak-ng has no voice {voice!r}")
        library.espeak_SetParameter(_RATE, round(rate * _WORDS_A_MINUTE), 0)
        library.espeak_SetSynthCallback(on_audio)
        said = text.replace("\0", " ").encode()
        outcome = library.espeak_Synth(
            said, len(said) + 1, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None
        )
        if outcome != _EE_OK:
            raise SpeechError(f"espeak-ng gave up with its code {outcome}")
