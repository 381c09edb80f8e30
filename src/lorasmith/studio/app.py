"""The server of the studio: its pages behind the guard, and the static files of the front end."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route

from lorasmith.core.errors import LorasmithError
from lorasmith.core.package import VERSION
from lorasmith.studio.page import Call, get, problem, static_type
from lorasmith.studio.pages import all_pages
from lorasmith.studio.paths import Roots
from lorasmith.studio.process import Processes
from lorasmith.studio.run_list import RunList
from lorasmith.studio.run_log import RunLogs
from lorasmith.studio.security import HEADERS, Access, Guard

STATIC = Path(__file__).parent / "static"
M_ARENA_MAX = -8
"""Constant of mallopt(3)."""
USUAL_PORT = 7860
STOP_SECONDS = 2
"""How long open requests may go on when the studio is stopped."""


def create_app(folders: Sequence[Path], access: Access) -> Starlette:
    """The studio over some folders. Raises LorasmithError if one of them is not a folder."""
    pages = all_pages()
    routes = [Mount(f"/api/{page.name}", routes=list(page.routes)) for page in pages]
    app = Starlette(
        routes=[
            get("/api/session", session),
            *routes,
            Route("/static/{path:path}", static_file),
            Route("/", index),
        ],
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={Exception: report_bug},
    )
    app.state.roots = roots = Roots(folders)
    app.state.run_list = RunList(roots.folders.values())
    app.state.run_logs = RunLogs()
    app.state.processes = Processes()
    app.state.pages = pages
    app.state.access = access
    app.state.closing = False
    return app


def session(call: Call) -> dict[str, object]:
    """What the front end needs to begin: the pages, the folders, the version."""
    pages = call.request.app.state.pages
    return {
        "version": VERSION,
        "pages": [{"name": page.name, "title": page.title} for page in pages if page.in_navigation],
        "hidden_pages": [{"name": page.name, "parent": page.parent} for page in pages if not page.in_navigation],
        "roots": [{"name": name, "path": str(path)} for name, path in call.roots.folders.items()],
    }


async def index(request: Request) -> Response:
    """The one HTML page."""
    return FileResponse(STATIC / "index.html", media_type="text/html")


async def static_file(request: Request) -> Response:
    """A file of the front end."""
    path = (STATIC / request.path_params["path"]).resolve()
    if not path.is_relative_to(STATIC) or not path.is_file():
        return problem("there is no such file", 404)
    # requested each time, but only sent if it has changed: an update of Lorasmith must not mix with old files
    return FileResponse(path, media_type=static_type(path), headers={"Cache-Control": "no-cache"})


async def report_bug(request: Request, error: Exception) -> Response:
    """A bug: its traceback goes to the terminal, the page gets a sentence."""
    traceback.print_exception(error, file=sys.stderr)
    answer = problem(f"a bug in Lorasmith ({type(error).__name__}); the terminal of the studio has its traceback", 500)
    # this answer does not pass the guard any more
    answer.headers.update(HEADERS)
    return answer


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that is bound to this host."""
    return host in ("localhost", "::1") or host.startswith("127.")


def bind(host: str, port: int | None = None) -> socket.socket:
    """A listening socket. Without a port, the usual one, or any other if that is taken.

    Raises LorasmithError if the address cannot be used.
    """
    if port is None:
        try:
            return listen(host, USUAL_PORT)
        except OSError:
            port = 0
    try:
        return listen(host, port)
    except OSError as error:
        raise LorasmithError(
            f"--host {host} --port {port}: cannot be used ({error.strerror or error}); choose another port, or leave "
            "out --port for any free one"
        ) from None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; with port 0 the system chooses one. Raises OSError if the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":
        # on Windows this would let two programs listen on one port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def keep_memory_small() -> None:
    """Let all threads share two pools of memory. glibc would give each its own, and keeps what is freed in it: after
    some thousand small pictures that is most of the memory of the server."""
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_ARENA_MAX, 2)


def serve(app: Starlette, listener: socket.socket) -> None:
    """Serve until Ctrl-C."""
    keep_memory_small()
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    StudioServer(config, app).run(sockets=[listener])


class StudioServer(uvicorn.Server):
    """A server that tells open event streams to end when it is stopped, so that it need not wait for them."""

    def __init__(self, config: uvicorn.Config, studio: Starlette) -> None:
        super().__init__(config)
        self.studio = studio

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.studio.state.closing = True
        super().handle_exit(sig, frame)
