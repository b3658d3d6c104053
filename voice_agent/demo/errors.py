"""What keeps the demo from running; its verdict on a call that ran is no error."""

from __future__ import annotations


class DemoError(Exception):
    """No clip, no server or no connection; the message is one sentence."""
