"""Recognisers that every call of this process shares: one load for each model and device.

Weights take seconds to load and gigabytes to hold, so services that name the same model on the
same device get the same object. Loading runs on a thread; the event loop goes on.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from voice_agent.engine.recognizer import Recognizer

_loads: dict[Hashable, Future[Recognizer]] = {}
_loads_lock = threading.Lock()
# Two models that load at once on one device would only slow each other down.
_one_at_a_time = threading.Lock()


async def shared_recognizer(
    model: str,
    *,
    device: str = "auto",
    language_model: str | Path | None = None,
    **options: Any,
) -> Recognizer:
    """Return the process's recogniser for this model and device; load it on the first call.

    Args:
        model: "tiny-en", a path or a Hugging Face id, as `load_recognizer` takes it.
        device: "auto", "cpu", "cuda" or "cuda:N".
        language_model: for its searches, as `load_recognizer` takes it; with another one, or
            none, the model is loaded again.
        options: further arguments of `load_recognizer`. Those of the first call hold; what
            differs between callers (look-ahead, language) they choose as stream options.

    Returns:
        The recogniser, which stays open for the life of the process.

    Raises:
        ModelError: the model cannot be found or read. The next call tries again.
    """

    def load() -> Recognizer:
        from voice_agent.engine import load_recognizer

        chosen = {"language_model": language_model, **options}
        given = {name: value for name, value in chosen.items() if value is not None}
        return load_recognizer(model, device=device, **given)

    return await share(shared_key(model, device, language_model), load)


def shared_key(
    model: str, device: str, language_model: str | Path | None = None
) -> tuple[str | None, ...]:
    """What `share` knows this project's own recognisers by."""
    return (model, device) if language_model is None else (model, device, str(language_model))


async def share(key: Hashable, load: Callable[[], Recognizer]) -> Recognizer:
    """Return what was loaded under this key; load it on the first call.

    Args:
        key: what tells one recogniser from another.
        load: makes it; blocks, on a thread.

    Returns:
        The recogniser, which stays open for the life of the process.

    Raises:
        Exception: what `load` raised, for everybody who waited; the next call tries again.
    """
    with _loads_lock:
        future = _loads.get(key)
        if future is None:
            future = _loads[key] = _start(load)
    try:
        # Shielded: a caller that gives up must not cancel the load for the others.
        return await asyncio.shield(asyncio.wrap_future(future))
    except Exception:
        with _loads_lock:
            if _loads.get(key) is future:
                del _loads[key]
        raise


def _start(load: Callable[[], Recognizer]) -> Future[Recognizer]:
    future: Future[Recognizer] = Future()

    def run() -> None:
        try:
            with _one_at_a_time:
                future.set_result(load())
        except BaseException as error:
            future.set_exception(error)

    # A daemon, for nobody can interrupt a download: who stops the process must not wait for it.
    threading.Thread(target=run, name="load-recognizer", daemon=True).start()
    return future
