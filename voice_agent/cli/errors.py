"""What goes wrong and what a person is told: one sentence on stderr, exit code 2, no traceback.

    2      something that the person can mend: a model, a file, a setting, a port, memory
    130    Ctrl-C
    1      the command ran and its answer is no (`demo` alone)

Anything that is not named here is a defect in this program and keeps its traceback.
"""

from __future__ import annotations

import errno

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_NO_MEMORY = "there is not enough free memory; choose a smaller model or fewer sessions"


class UsageFault(Exception):
    """A wrong use of a command that its flags alone do not show; the message is one sentence."""


def sentence(error: BaseException) -> str | None:
    """One sentence for an error that a person can mend.

    Args:
        error: what a command raised.

    Returns:
        The sentence, without a line break; None for a defect of ours.
    """
    text = _text(error)
    return None if text is None else " ".join(text.split())


def _text(error: BaseException) -> str | None:
    from voice_agent.bench.profile import CannotProfile
    from voice_agent.bench.served import ServerFailed
    from voice_agent.config_errors import ConfigError
    from voice_agent.demo.errors import DemoError
    from voice_agent.engine.errors import EngineError
    from voice_agent.server.errors import CannotListen
    from voice_agent.server.keys import KeysError
    from voice_agent.transcribe.errors import AudioFileError, OptionNotServed

    match error:
        case (
            UsageFault()
            | ConfigError()
            | EngineError()
            | CannotListen()
            | KeysError()
            | AudioFileError()
            | OptionNotServed()
            | DemoError()
            | CannotProfile()
            | ServerFailed()
        ):
            return str(error)
        case _ if _is_out_of_memory(error):
            return _NO_MEMORY
        case OSError():
            what = error.strerror or str(error)
            return f"{error.filename}: {what}" if error.filename else what
        case ModuleNotFoundError() if error.name and not error.name.startswith("voice_agent"):
            return (
                f"the package {error.name!r} is not installed; "
                "install the project again, with the extra that names it"
            )
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # Torch's, by name: importing torch to ask would take seconds. On the CPU it raises a bare
    # RuntimeError with this text.
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
