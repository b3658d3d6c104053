"""Recognisers that every call of this process shares: one load for each model and device.

Weights take seconds to load and gigabytes to hold, so services that name the same model on the
same device get the same object. Loading runs on a thread; the event loop goes on.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from voice_agent.engine.recognizer import Recognizer

_loads: dict[tuple[str, str], Future[Recognizer]] = {}
# One thread: two models that load at once on one device would only slow each other down.
_loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load-recognizer")


async def shared_recognizer(model: str, *, device: str = "auto", **options: Any) -> Recognizer:
    """Return the process's recogniser for this model and device; load it on the first call.

    Args:
        model: "tiny-en", a path or a Hugging Face id, as `load_recognizer` takes it.
        device: "auto", "cpu", "cuda" or "cuda:N".
        options: further arguments of `load_recognizer`. Those of the first call hold; what
            differs between callers (look-ahead, language) they choose as stream options.

    Returns:
        The recogniser, which stays open for the life of the process.

    Raises:
        ModelError: the model cannot be found or read. The next call tries again.
    """
    key = (model, device)
    load = _loads.get(key)
    if load is None:
        load = _loads[key] = _loader.submit(_load, model, device, options)
    try:
        # Shielded: a caller that gives up must not cancel the load for the others.
        return await asyncio.shield(asyncio.wrap_future(load))
    except Exception:
        if _loads.get(key) is load:
            del _loads[key]
        raise


def _load(model: str, device: str, options: dict[str, Any]) -> Recognizer:
    from voice_agent.engine import load_recognizer

    given = {name: value for name, value in options.items() if value is not None}
    return load_recognizer(model, device=device, **given)
