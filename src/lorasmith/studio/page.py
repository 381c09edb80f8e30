"""What a page of the studio is for the server, and helpers for its routes.

Handlers are ordinary functions: Starlette calls them in threads, so they may read files. They return JSON data or a
response, and raise LorasmithError for what the user can repair.
"""

from __future__ import annotations

import functools
import json
import mimetypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.studio.paths import Roots
from lorasmith.studio.process import Processes
from lorasmith.studio.run_list import RunList
from lorasmith.studio.run_log import RunLogs

LARGEST_JSON = 4 << 20
"""Bytes of a JSON body."""
PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
"""Files that are shown as they are, by suffix; an SVG could hold a script."""

Handler = Callable[["Call"], Any]


@dataclass(frozen=True)
class Page:
    """A page: its address and file name, the text of its link, and its routes (below `/api/NAME`).

    `order`: place in the navigation; `in_navigation`: whether it has a link there; `parent`: the page whose link is
    highlighted in its place.
    """

    name: str
    title: str
    order: int
    routes: Sequence[Route] = field(default_factory=tuple)
    in_navigation: bool = True
    parent: str = ""


@dataclass(frozen=True)
class Call:
    """A request as a handler gets it."""

    request: Request
    body: Any
    """The JSON of a POST, the bytes of an upload; an empty table of a GET."""

    @property
    def roots(self) -> Roots:
        return self.request.app.state.roots

    @property
    def run_list(self) -> RunList:
        return self.request.app.state.run_list

    @property
    def run_logs(self) -> RunLogs:
        return self.request.app.state.run_logs

    @property
    def processes(self) -> Processes:
        return self.request.app.state.processes

    def text(self, key: str, default: str | None = None) -> str:
        """A value of the address or of the body as text. Raises LorasmithError if it is missing and has no default."""
        value = self.request.query_params.get(key)
        if value is None and isinstance(self.body, dict):
            value = self.body.get(key)
        if value is None:
            value = default
        if not isinstance(value, str):
            raise LorasmithError(f"the request has no text `{key}`")
        return value

    def number(self, key: str, default: int) -> int:
        """A whole number of the address or of the body. Raises LorasmithError if it is something else."""
        value = self.request.query_params.get(key)
        if value is None and isinstance(self.body, dict):
            value = self.body.get(key)
        if value is None:
            return default
        try:
            return int(value)
        except (ValueError, TypeError, OverflowError):
            raise LorasmithError(f"`{key}` of the request is not a whole number") from None

    def path(self, key: str) -> Path:
        """The path that a value names; it need not exist. Raises LorasmithError if it is outside of the roots."""
        return self.roots.resolve(self.text(key))

    def folder(self, key: str) -> Path:
        """The folder that a value names. Raises LorasmithError if it is not there."""
        path = self.path(key)
        if not path.is_dir():
            raise LorasmithError(f"{self.text(key)}: there is no such folder")
        return path


def get(path: str, handler: Handler) -> Route:
    """A route that reads. Its handler returns JSON data or a response."""

    @functools.wraps(handler)
    async def endpoint(request: Request) -> Response:
        return await answer(handler, Call(request, {}))

    return Route(path, endpoint, methods=["GET"])


def post(path: str, handler: Handler) -> Route:
    """A route that changes something. It takes JSON, and returns JSON data or a response."""

    @functools.wraps(handler)
    async def endpoint(request: Request) -> Response:
        content = await request.body()
        if len(content) > LARGEST_JSON:
            return problem(f"more than {LARGEST_JSON >> 20} MiB of JSON in one request", 413)
        try:
            body = json.loads(content or b"{}")
        except (ValueError, RecursionError):
            return problem("the request is not JSON", 400)
        if not isinstance(body, dict):
            return problem("the request is not a JSON object", 400)
        return await answer(handler, Call(request, body))

    return Route(path, endpoint, methods=["POST"])


def upload(path: str, handler: Handler, most: int) -> Route:
    """A route that takes a file of at most `most` bytes: the body of its call is the bytes."""

    @functools.wraps(handler)
    async def endpoint(request: Request) -> Response:
        content = await request.body()
        if len(content) > most:
            return problem(f"the file has more than {most >> 20} MiB", 413)
        return await answer(handler, Call(request, content))

    return Route(path, endpoint, methods=["POST"])


async def answer(handler: Handler, call: Call) -> Response:
    """What a handler returns, as a response; a mistake of the user as a message."""
    try:
        result = await run_in_threadpool(handler, call)
    except ConfigError as error:
        return JSONResponse({"error": str(error), "problems": [vars(p) for p in error.problems]}, 400)
    except LorasmithError as error:
        return problem(str(error), 400)
    except OSError as error:
        return problem(f"{error.filename or ''}: {error.strerror or error}", 400)
    return result if isinstance(result, Response) else JSONResponse(result)


def problem(text: str, status: int) -> JSONResponse:
    """An error message for the page."""
    return JSONResponse({"error": text}, status)


def picture(path: Path) -> Response:
    """A picture file as it is, if it is of a kind that browsers show and that cannot hold a script."""
    media_type = PICTURES.get(path.suffix.lower())
    if media_type is None or not path.is_file():
        raise LorasmithError(f"{path.name}: is not a picture")
    # the address of a picture has its time in it, so that it need not be requested again
    return FileResponse(path, media_type=media_type, headers={"Cache-Control": "private, max-age=3600"})


def static_type(path: Path) -> str:
    """The media type of a file of the front end."""
    if path.suffix == ".js":
        return "text/javascript"
    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"
