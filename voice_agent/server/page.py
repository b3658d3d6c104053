"""Pipecat's prebuilt page, made to need nothing but this server.

The page takes the microphone through Daily's call object, which loads itself from Daily's servers
at run time. In place of the module that would do so, `microphone.js` is served, which has the
same exports and asks the browser.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import os
from pathlib import Path

from fastapi.staticfiles import StaticFiles

_MICROPHONE = Path(__file__).with_name("microphone.js")
_REPLACED = "assets/daily-esm-*.js"  # the rest of its name is a hash of the page's build


class _Page(StaticFiles):
    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Find a file of the page; see the module docstring for the one that is ours."""
        if fnmatch.fnmatch(path, _REPLACED):
            return str(_MICROPHONE), _MICROPHONE.stat()
        return super().lookup_path(path)


def prebuilt_page() -> StaticFiles:
    """The page, to be mounted at /client."""
    # The package prints where it looks for its files.
    with contextlib.redirect_stdout(io.StringIO()):
        from pipecat_ai_prebuilt.frontend import dist_dir
    return _Page(directory=dist_dir, html=True)
