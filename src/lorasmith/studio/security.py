"""Who may use the studio: whoever has the token of the address that it printed, from pages of the studio itself.

The studio can start programs and write files, and every page of every web site in the same browser can send requests to
it. So each request must have the cookie that the token was exchanged for, a `Host` that is no foreign name (a site that
lets its own name point to 127.0.0.1 is refused), and come from a page of the studio.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import URL, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 64 << 20
"""Bytes of a request; uploads included."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of each response, unless the response has set its own: only files of the studio run as script."""
ENTRY_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Lorasmith studio</title>
<link rel="icon" href="data:,">
<meta http-equiv="refresh" content="0;url=/"></head><body><a href="/">Open the studio</a></body></html>"""
NO_ENTRY = (
    "This is the Lorasmith studio. Open it with the whole address that `lorasmith studio` printed, token included. "
    "After a restart of the studio the address is a new one.\n"
)


def new_token() -> str:
    """A secret that nobody can guess."""
    return secrets.token_urlsafe(24)


@dataclass(frozen=True)
class Access:
    """Who may use the studio. `host_names`: names by which it may be called besides `localhost` and IP addresses."""

    token: str = field(default_factory=new_token, repr=False)
    host_names: frozenset[str] = frozenset()
    only_loopback: bool = True
    """Whether only this machine can reach the studio; another address in `Host` is then refused."""

    def is_token(self, text: str) -> bool:
        """Whether the text is the token; takes the same time for every wrong one."""
        return hmac.compare_digest(text.encode(), self.token.encode())

    def allows_host(self, header: str) -> bool:
        """Whether a request may call the studio so. An address cannot be made to point elsewhere, a name can."""
        name = urlsplit(f"//{header}").hostname or "" if valid_host(header) else ""
        if name == "localhost" or name in self.host_names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.only_loopback


def valid_host(header: str) -> bool:
    """Whether a `Host` header is a host with a port, not a part of an address with more in it."""
    try:
        parts = urlsplit(f"//{header}")
        _ = parts.port
    except ValueError:
        return False
    return bool(header) and parts.netloc == header and "@" not in header


class Guard:
    """Middleware that answers what may not pass, and adds the headers to what may."""

    def __init__(self, app: ASGIApp, access: Access, largest_body: int = LARGEST_BODY) -> None:
        self.app = app
        self.access = access
        self.largest_body = largest_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        request = Request(scope)
        answer = self.refusal(request)
        if answer is not None:
            await answer(scope, receive, send_with_headers)
            return
        body = LimitedBody(receive, self.largest_body)
        try:
            await self.app(scope, body.receive, send_with_headers)
        except ClientDisconnect:
            if body.too_large:
                await self.too_large()(scope, receive, send_with_headers)

    def refusal(self, request: Request) -> Response | None:
        """The answer to a request that may not pass, or that brings the token; None if it may pass."""
        host = request.headers.get("host", "")
        if not self.access.allows_host(host):
            return PlainTextResponse("This host name is not one of the studio.\n", 421)

        # The token is exchanged for a cookie, so that it stays out of the history and of what pages refer to.
        cookie_name = cookie_of(request.url)
        token = request.query_params.get("token")
        if token is not None and request.method == "GET" and request.url.path == "/":
            if not self.access.is_token(token):
                return PlainTextResponse(NO_ENTRY, 401)
            entry = HTMLResponse(ENTRY_PAGE)
            entry.set_cookie(cookie_name, self.access.token, httponly=True, samesite="strict", path="/")
            return entry
        if not self.access.is_token(request.cookies.get(cookie_name, "")):
            return PlainTextResponse(NO_ENTRY, 401)

        if not comes_from_studio(request, host):
            return PlainTextResponse("This request comes from a page of another site.\n", 403)
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.largest_body:
            return self.too_large()
        return None

    def too_large(self) -> Response:
        """The answer to a request with too long a body."""
        return PlainTextResponse(f"More than {self.largest_body >> 20} MiB in one request.\n", 413)


class LimitedBody:
    """Receives at most `most` bytes of a body, since a request need not tell how long it is."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._left = most
        self.too_large = False

    async def receive(self) -> Message:
        """The next message; that the client is gone, if there were too many bytes."""
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            self.too_large = True
            return {"type": "http.disconnect"}
        return message


def cookie_of(url: URL) -> str:
    """The name of the cookie. Cookies do not know ports, and there may be several studios on one machine."""
    return f"lorasmith-studio-{url.port or 80}"


def comes_from_studio(request: Request, host: str) -> bool:
    """Whether a request was made by a page of the studio, or is an address that was opened by itself.

    `SameSite` alone does not tell: pages of other ports of this machine count as the same site.
    """
    origin = request.headers.get("origin")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        return False
    fetched_by = request.headers.get("sec-fetch-site", "same-origin")
    if request.method in ("GET", "HEAD"):
        return fetched_by in ("same-origin", "none")
    # A form of another page can send neither this header nor JSON.
    return fetched_by == "same-origin" and request.headers.get("x-lorasmith") == "studio"
