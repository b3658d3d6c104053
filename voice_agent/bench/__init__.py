"""Measurements that anyone can run: `voice-agent bench ...`."""
