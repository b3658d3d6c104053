"""Measurements that anyone can run: `voice-agent bench ...`."""

from voice_agent.bench.app import app

__all__ = ["app"]
