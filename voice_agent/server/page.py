"""The two pages of the server; both need nothing but it.

    /          ours: captions, latency, a tab for files; plain modules under static/
    /client/   Pipecat's prebuilt page, for a look at every RTVI message

The prebuilt page takes the microphone through Daily's call object, which loads itself from Daily's
servers at run time. In place of the module that would do so, `microphone.js` is served, which has
the same exports and asks the browser.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

_STATIC = Path(__file__).with_name("static")
# Without it browsers guess how long a file is good for, and mix a page's versions after an upgrade.
_ASK_AGAIN = {"Cache-Control": "no-cache"}
_MICROPHONE = Path(__file__).with_name("microphone.js")
_REPLACED = "assets/daily-esm-*.js"  # the rest of its name is a hash of the page's build


class _Assets(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Answer with a file that the browser asks about each time; unchanged, it is not sent."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(_ASK_AGAIN)
        return response


class _Page(StaticFiles):
    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Find a file of the page; see the module docstring for the one that is ours."""
        if fnmatch.fnmatch(path, _REPLACED):
            return str(_MICROPHONE), _MICROPHONE.stat()
        return super().lookup_path(path)


def add_pages(app: FastAPI) -> None:
    """Serve both pages from this app."""

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_STATIC / "index.html", headers=_ASK_AGAIN)

    app.mount("/static", _Assets(directory=_STATIC))
    app.mount("/client", _prebuilt_page())


def _prebuilt_page() -> StaticFiles:
    # The package prints where it looks for its files.
    with contextlib.redirect_stdout(io.StringIO()):
        from pipecat_ai_prebuilt.frontend import dist_dir
    return _Page(directory=dist_dir, html=True)
