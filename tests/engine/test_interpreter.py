"""What an engine's process asks of its interpreter."""

from __future__ import annotations

import gc
import sys

from voice_agent.engine.interpreter import FULL_AFTER, SWITCH_S, prompt


def test_what_was_asked_for_a_while_is_as_before_afterwards():
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    with prompt():
        assert abs(sys.getswitchinterval() - SWITCH_S) < 1e-6
        assert gc.get_threshold() == (*thresholds[:2], FULL_AFTER)
        assert gc.get_freeze_count() > 0
    assert abs(sys.getswitchinterval() - interval) < 1e-6
    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() == 0
