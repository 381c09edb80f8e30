"""Server-sent events: a response that stays open and tells the browser what has changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import StreamingResponse

INTERVAL = 1.0
"""Seconds between two looks at the files."""
KEEP_ALIVE = 15.0
"""Seconds after which something is sent in any case, so that a closed page is noticed."""

Change = tuple[str, Any]
"""The name of an event and its JSON data."""


def stream(request: Request, poll: Callable[[], Iterator[Change]], interval: float = INTERVAL) -> StreamingResponse:
    """A response that calls `poll` every `interval` seconds, in a thread, and sends what it yields.

    The files of a run are the only source of what happens, so they are looked at rather than listened to: this works
    for runs of other processes, and after a restart of either side. An exception of `poll` ends the stream.
    """

    async def messages() -> AsyncIterator[str]:
        silent = 0.0
        yield ": open\n\n"
        while not await request.is_disconnected() and not is_closing(request):
            changes = await run_in_threadpool(lambda: list(poll()))
            for name, data in changes:
                yield message(name, data)
            silent = 0.0 if changes else silent + interval
            if silent >= KEEP_ALIVE:
                silent = 0.0
                yield ": still here\n\n"
            await asyncio.sleep(interval)

    return StreamingResponse(messages(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def stream_state(request: Request, name: str, read: Callable[[], Any], interval: float = INTERVAL) -> StreamingResponse:
    """A response that sends what `read` returns as the event `name`: at once, and whenever it has changed."""
    sent: list[Any] = []

    def poll() -> Iterator[Change]:
        now = read()
        if sent != [now]:
            sent[:] = [now]
            yield name, now

    return stream(request, poll, interval)


def message(name: str, data: Any) -> str:
    """One event as text. JSON has no line breaks outside of strings, and escapes them inside."""
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def is_closing(request: Request) -> bool:
    """Whether the server is about to stop; open streams would hold it up."""
    return bool(getattr(request.app.state, "closing", False))
