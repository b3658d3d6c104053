"""Streams of one process that are fed at the same moments: one call for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from voice_agent.engine.errors import BadAudio, StreamClosed
from voice_agent.engine.feeding import Feeding


class Together:
    """See the module docstring."""

    def __init__(self, streams: Sequence[Feeding]) -> None:
        """Feed these.

        Args:
            streams: open, of one engine; nobody else feeds, ends or closes one during `feed`.
        """
        self._streams = list(streams)
        self._feeders = streams[0]._feeders
        self._slots = np.array([stream._slot for stream in streams], np.int64)
        self._serials = np.array([stream._serial for stream in streams], np.int64)

    def feed(self, pcm: np.ndarray) -> None:
        """Append audio to each stream's segment; see `Stream.feed`.

        Args:
            pcm: int16, shape (streams, n), or (n,) for the same audio to all of them.

        Raises:
            BadAudio: wrong dtype or shape.
            StreamClosed: one of them was closed.
        """
        if pcm.dtype != np.int16 or pcm.shape[:-1] not in ((), (len(self._streams),)):
            raise BadAudio(
                f"audio of {len(self._streams)} streams must be int16 of shape "
                f"({len(self._streams)}, n) or (n,), got {pcm.dtype} of {pcm.shape}"
            )
        if not pcm.size:
            return
        feeders = self._feeders
        if (feeders.serial[self._slots] != self._serials).any():
            raise StreamClosed("feed after close(): open a new stream")
        fed = feeders.feed(self._slots, pcm)
        for at in np.flatnonzero(~fed).tolist():
            self._streams[at].feed(pcm if pcm.ndim == 1 else pcm[at])
        if feeders.asleep_view[0]:
            written = feeders.rings.written[self._slots]
            if (written >= feeders.need[self._slots]).any():
                self._streams[0]._wake()
