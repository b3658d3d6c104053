"""What one websocket client may do, and how fast it may send."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What one client may do.

    Attributes:
        idle_s: seconds without a message, KeepAlive included.
        total_s: seconds that a session lasts at most.
        pace: audio no faster than this many times real time; the server reads no faster.
        burst_s: seconds of audio that may come at once all the same.
        backlog_bytes: audio that waits to be decoded before the server stops reading.
        unsent: messages that a client leaves unread before it is cut off.
        grace_s: seconds that a resumable session waits for its client.
        stuck_s: seconds that the recogniser may owe a text before it is given up.
    """

    idle_s: float = 12.0
    total_s: float = 4 * 3600.0
    pace: float = 8.0
    burst_s: float = 10.0
    backlog_bytes: int = 256 * 1024
    unsent: int = 1_000
    grace_s: float = 30.0
    stuck_s: float = 15.0


class Pace:
    """A bucket of audio seconds that fills at N times real time. Time is an argument.

    Attributes:
        rate: seconds of audio a second.
        burst: seconds of audio that may come at once.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        """Start with a full bucket."""
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._then = now

    def spend(self, audio_s: float, now: float) -> float:
        """Take audio out of the bucket.

        Args:
            audio_s: seconds of audio that came since the last call.
            now: a monotonic clock's time.

        Returns:
            Seconds to wait before reading on; 0 for none.
        """
        self._level = min(self.burst, self._level + (now - self._then) * self.rate) - audio_s
        self._then = now
        return max(0.0, -self._level / self.rate)
