"""Who may talk to the page: everything that reaches the server passes here first.

Gradio on its own answers any Host, so a web site whose name is pointed at 127.0.0.1 could drive it; and, reached by
another name than localhost, it echoes any Origin together with credentials.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "dora-studio"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
WRONG_TOKEN_SECONDS = 0.5  # what a wrong guess costs
# gr.HTML compiles its templates with new Function, hence unsafe-eval; Gradio's page has inline scripts.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
# Gradio fetches these addresses for whoever asks: another server's page would come through us.
FETCHING = ("file=http", "proxy=")
MANIFEST = "/manifest.json"  # browsers ask for it without the cookie


@dataclass(frozen=True)
class Access:
    """Who is let in. Without a token the names of this machine alone are answered to."""

    token: str | None = None
    hosts: frozenset[str] = LOOPBACK

    @staticmethod
    def open_to(names: Iterable[str], token: str | None) -> Access:
        return Access(token, LOOPBACK | {name.lower() for name in names})

    def knows_host(self, host: str) -> bool:
        """Whether a Host header names us. An address is no name that somebody else could point at us."""
        name = _host_name(host)
        return name in self.hosts or (self.token is not None and _is_address(name))


class Gate:
    """ASGI middleware: 421 for a foreign Host, 403 for a foreign Origin, 401 without the token, else passes on.

    A first visit with ``?token=...`` gets the token as a cookie and is sent on to the same address without it, so that
    it stays in no history and no log. Programs send ``Authorization: Bearer ...``.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        answer = await self._answer(scope)
        await (answer or self.app)(scope, receive, _with_headers(send))

    async def _answer(self, scope: Scope) -> Response | None:
        """What to answer instead of passing on; None: pass on."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self.access.knows_host(host):
            return PlainTextResponse(
                f"This server does not answer to {host!r}. Start it with --allow-host {_host_name(host)} if it should.",
                421,
            )
        if not _is_same_origin(headers, host, scope.get("method", "")):
            return PlainTextResponse("Another site may not use this page.", 403)
        if any(part in scope["path"] for part in FETCHING):
            return PlainTextResponse("Not found.", 404)
        if scope["path"] == MANIFEST:
            return JSONResponse({"name": "DoRA Studio"})  # and that is all: no app to be installed
        if self.access.token is None:
            return None
        return await self._ask_for_token(scope, headers, self.access.token)

    async def _ask_for_token(self, scope: Scope, headers: Headers, token: str) -> Response | None:
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        asked = next((value for name, value in query if name == "token"), None)
        if asked is not None and _equal(asked, token):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            response = RedirectResponse(f"{scope['path']}?{rest}" if rest else scope["path"], 303)
            # Lax: a link in a mail or a chat may lead here; what changes something is asked for its Origin besides.
            response.set_cookie(COOKIE, token, httponly=True, samesite="lax", secure=scope["scheme"] == "https")
            return response
        given = _cookie(headers) or headers.get("authorization", "").removeprefix("Bearer ")
        if given and _equal(given, token):
            return None
        if given or asked is not None:
            await asyncio.sleep(WRONG_TOKEN_SECONDS)
        return PlainTextResponse("Open the link with the token that `dora-studio ui` printed when it started.", 401)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
        await send(message)

    return sending


def _is_same_origin(headers: Headers, host: str, method: str) -> bool:
    """Browsers say where a request comes from; programs need not, and do not act for somebody else's page."""
    origin = headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc == host
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return True
    # A person follows a link to us: that shows the page and changes nothing.
    return method == "GET" and (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == (
        "navigate",
        "document",
    )


def _cookie(headers: Headers) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _host_name(host: str) -> str:
    """Without the port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _equal(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())
