"""Pretends that this machine has a CUDA device, to find what would fail or wait on a real one.

    with PretendCuda() as cuda:
        wave = torch.zeros(3, device="cuda")    # lies on the CPU, and says that it does not
        wave + torch.zeros(3)                   # RuntimeError: two devices, as on the real one
    cuda.waits                                  # operators whose result the host had to wait for
    cuda.arrivals                               # those that brought a tensor of the CPU there

Nothing runs faster for it; streams, memory, autocast and the backward pass are not pretended.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

_CROSSING = {"aten::_to_copy", "aten::copy_", "aten::_pin_memory"}
# These take integers from the CPU beside tensors of the device.
_MIXED = {"aten::index", "aten::index_put_", "aten::_ctc_loss", "aten::_index_put_impl_"}
_WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"}


class _OnDevice(torch.Tensor):
    """A CPU tensor that says it is on `cuda:0`."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> _OnDevice:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
        )

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    # What runs below Python takes it for a CPU tensor, since it has no such device.
    device = property(lambda self: torch.device("cuda:0"))  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]

    data = property(lambda self: self.detach())  # type: ignore[assignment]

    def cpu(self) -> torch.Tensor:
        """Bring it to the CPU, for which the host waits."""
        return self.to("cpu")

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Bring it to a device or a type."""
        named = [str(a) for a in (*args, *kwargs.values()) if isinstance(a, str | torch.device)]
        if any(name.startswith("cpu") for name in named):
            _now.waits.append("to the CPU")
            return self.inner
        return super().to(*args, **kwargs)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(_now, func, args, kwargs or {})


_now: PretendCuda = None  # type: ignore[assignment]  # the one entered


def _run(mode: PretendCuda, func: Any, args: Any, kwargs: dict) -> Any:
    name = func._schema.name
    given = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    here = [t for t in given if isinstance(t, _OnDevice)]
    named = kwargs.get("device")
    on_device = bool(here) if named is None else torch.device(named).type == "cuda"
    if name == "aten::_pin_memory":
        return args[0]
    if name == "aten::copy_":
        on_device = isinstance(args[0], _OnDevice)
    if name in _CROSSING and on_device and any(not isinstance(t, _OnDevice) for t in given):
        mode.arrivals.append(name)
    elif name not in _CROSSING | _MIXED and here:
        if stray := [t for t in given if not isinstance(t, _OnDevice) and t.dim()]:
            raise RuntimeError(f"{name}: two devices, shape {tuple(stray[0].shape)} is on the CPU")
    masked = name == "aten::index" and any(
        isinstance(t, torch.Tensor) and t.dtype == torch.bool for t in args[1]
    )
    if here and (name in _WAITING or masked or not on_device):
        mode.waits.append(name)
    if named is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    wrappers = {id(t.inner): t for t in here}
    args, kwargs = tree_map(lambda t: t.inner if isinstance(t, _OnDevice) else t, (args, kwargs))
    result = func(*args, **kwargs)
    if not on_device:
        return result

    def told(t: Any) -> Any:
        if not isinstance(t, torch.Tensor):
            return t
        return wrappers[id(t)] if id(t) in wrappers else _OnDevice(t)

    return tree_map(told, result)


def _stft(wave: Any, *args: Any, plain: Any = torch.stft, **kwargs: Any) -> torch.Tensor:
    """The transform in one step: inside, it pads its window on the device of the library's view."""
    window = next((w for w in (*args, *kwargs.values()) if isinstance(w, torch.Tensor)), wave)
    if isinstance(wave, _OnDevice) != isinstance(window, _OnDevice):
        raise RuntimeError("stft: two devices")
    if not isinstance(wave, _OnDevice):
        return plain(wave, *args, **kwargs)
    inner = [getattr(a, "inner", a) for a in args]
    return _OnDevice(
        plain(wave.inner, *inner, **{k: getattr(a, "inner", a) for k, a in kwargs.items()})
    )


class PretendCuda(TorchDispatchMode):
    """While entered, tensors can be made on `cuda`; `waits` and `arrivals` list what crossed."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.arrivals: list[str] = []
        self._patches = [
            mock.patch("torch.cuda._lazy_init", lambda: None),
            mock.patch("torch.stft", _stft),
        ]

    def __enter__(self) -> PretendCuda:
        global _now
        _now = self
        for patch in self._patches:
            patch.start()
        # Parameters change their type here when their module is moved.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        for patch in self._patches:
            patch.stop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(self, func, args, kwargs or {})
