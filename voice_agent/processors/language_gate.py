"""The language gate's public name; it is a service, and lives with those."""

from voice_agent.services.language_gate import LanguageGate

__all__ = ["LanguageGate"]
