"""Which recogniser the settings mean, and loading it: alone, or once for all calls of a process.

Neither Pipecat nor torch is imported before something is loaded, so commands that transcribe
without a pipeline use this module as well.
"""

from __future__ import annotations

from functools import partial

from voice_agent.config import DEFAULT_SYSTEM, Settings
from voice_agent.engine.recognizer import Recognizer
from voice_agent.services.shared import share, shared_key


def load_recognizer(settings: Settings) -> Recognizer:
    """Load a recogniser of one's own. Blocks; see `load_shared_recognizer` for an event loop.

    Args:
        settings: `stt` says which system and model, where it runs, and its default look-ahead;
            `slots` how many streams it must hold; `gate` whether others stand beside it.

    Raises:
        EngineError: a model, package, key or server that is missing; the message says what
            supplies it.
        ValueError: languages of the gate that its parts do not serve, named.
    """
    if not settings.gate.enabled:
        return _load_stt(settings)
    from voice_agent.engine.gate import load_gate

    default = _load_stt(settings)
    try:
        return load_gate(
            {settings.default_language: default, **settings.gate.languages},
            identifier=settings.gate.identifier,
            identifier_model=settings.gate.identifier_model,
            device=settings.stt.device,
            # A caller's last segment may still be on its way when the next one is diverted.
            slots=2 * settings.slots,
            settings=settings.gate.policy(),
        )
    except Exception:
        default.close()
        raise


def _load_stt(settings: Settings) -> Recognizer:
    """What `stt` names, without a gate."""
    stt = settings.stt
    if stt.name == DEFAULT_SYSTEM:
        from voice_agent import engine

        return engine.load_recognizer(
            stt.model,
            device=stt.device,
            right_context=stt.right_context,
            slots=settings.slots,
            **stt.engine_options,
        )
    from voice_agent import alternatives

    choice = alternatives.Choice(
        model=stt.named_model,
        device=stt.device,
        language=settings.spoken_language,
        url=stt.url,
        api_key=stt.api_key.get_secret_value() if stt.api_key is not None else None,
        slots=settings.slots,
    )
    return alternatives.load(stt.name, choice)


async def load_shared_recognizer(settings: Settings) -> Recognizer:
    """Load the recogniser that all calls of this process share, or return it if it is loaded.

    Args:
        settings: as for `load_recognizer`.

    Returns:
        The recogniser. It lives as long as the process; do not close it between calls.

    Raises:
        EngineError: as `load_recognizer`.
    """
    stt = settings.stt
    key: tuple[str | None, ...]
    if stt.name == DEFAULT_SYSTEM:
        # As `shared_recognizer` has it, for services beside ours.
        key = shared_key(stt.model, stt.device, stt.language_model)
    else:
        key = (stt.name, stt.named_model, stt.device, stt.url)
    if settings.gate.enabled:
        key = (*key, settings.default_language, settings.gate.model_dump_json())
    return await share(key, partial(load_recognizer, settings))
