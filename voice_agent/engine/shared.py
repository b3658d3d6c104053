"""Arrays in memory that other processes of this machine may look at and write to.

`Memory` lays named arrays out one after another. Where the system has `memfd_create`, they lie in
an unnamed file, and another process of the same user maps the same pages by the path that it is
told. A file of this kind counts as memory, is given by the page when it is first
touched, whatever its size says, and is gone with the last process that has it mapped.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np

Layout = Mapping[str, tuple[tuple[int, ...], type[np.generic]]]
"""Shape and dtype of each array by name, in the order in which they lie."""

_ALIGN = 4096  # bytes: so that no two arrays share a page, nor a cache line


class Memory:
    """The arrays of a layout, all zero at first.

    Attributes:
        arrays: by name.
        path: where other processes find them; None where the system cannot share them.
    """

    def __init__(self, layout: Layout, path: Path | None = None) -> None:
        """Reserve memory, or map another process's.

        Args:
            layout: of the arrays.
            path: of the memory that is there already; None for new memory.

        Raises:
            OSError: the path cannot be opened, or its file is smaller than the layout.
        """
        size = sum(map(_bytes, layout.values()))
        self.path: Path | None = None
        if path is not None:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_size != size:
                    raise OSError(f"{path} is not of {size} bytes: the two ends do not agree")
                block = mmap.mmap(fd, size)
            finally:
                os.close(fd)
        else:
            block = self._reserve(size)
        self.arrays: dict[str, np.ndarray] = {}
        at = 0
        for name, (shape, dtype) in layout.items():
            count = int(np.prod(shape))
            self.arrays[name] = np.frombuffer(block, dtype, count, at).reshape(shape)
            at += _bytes((shape, dtype))

    def _reserve(self, size: int) -> mmap.mmap:
        if not hasattr(os, "memfd_create"):
            return mmap.mmap(-1, size)
        fd = os.memfd_create("voice-agent-rings", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, fd)
        os.ftruncate(fd, size)
        self.path = Path(f"/proc/{os.getpid()}/fd/{fd}")
        return mmap.mmap(fd, size)


def _bytes(array: tuple[tuple[int, ...], type[np.generic]]) -> int:
    shape, dtype = array
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return -(-size // _ALIGN) * _ALIGN
