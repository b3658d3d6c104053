"""What goes wrong with systems that are not ours, as sentences that say what supplies the lack.

    EngineError
    ├── UnknownSystem    no system of this name
    ├── MissingExtra     its Python package is not installed
    ├── MissingKey       a hosted service without its key
    ├── NoServer         nothing answers at its server's address
    └── SystemFailed     the system itself reported a failure

Missing weights are the engine's own `ModelNotFound`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from voice_agent.engine.errors import EngineError


class UnknownSystem(EngineError):
    """No speech-to-text system of this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        super().__init__(f"no speech-to-text system is called {name!r}{hint} ({', '.join(known)})")


class MissingExtra(EngineError):
    """The package that runs this system is not installed."""

    def __init__(self, system: str, package: str, extra: str) -> None:
        self.system, self.package, self.extra = system, package, extra
        super().__init__(
            f"{system} needs the package {package!r}; install it with "
            f"`pip install 'voice-agent[{extra}]'`"
        )


class MissingKey(EngineError):
    """A hosted service was chosen and its key was not given."""

    def __init__(self, system: str, variable: str) -> None:
        self.system, self.variable = system, variable
        super().__init__(f"{system} is a hosted service; put its key into the variable {variable}")


class NoServer(EngineError):
    """Nothing that speaks this system's protocol answers at its address."""

    def __init__(self, system: str, url: str, start: str, why: object = "") -> None:
        self.system, self.url = system, url
        because = f" ({why})" if str(why) else ""
        super().__init__(
            f"{system}: no server answers at {url}{because}; start one with `{start}`, "
            "or give the address of another in stt.url (--stt-url)"
        )


class SystemFailed(EngineError):
    """The system could not transcribe this audio; its own words are in the message."""

    def __init__(self, system: str, problem: object) -> None:
        self.system = system
        text = str(problem) or type(problem).__name__
        super().__init__(f"{system}: {text}")
