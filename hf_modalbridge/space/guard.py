"""The server's doorkeeper: no address is fetched for a visitor, and a page loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

__all__ = ["Guard"]

_Scope = MutableMapping[str, Any]


class Guard:
    """ASGI middleware.

    gradio serves `/file=https://...` by fetching that address itself; here it is refused. Each page gets a content
    security policy, so that a browser asks this server only.

    Args:
        app: The application.
        policy: The content security policy.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], policy: str) -> None:
        self.app = app
        self.headers = [
            (b"content-security-policy", policy.encode("ascii")),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]

    async def __call__(self, scope: _Scope, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        """Refuse, or pass on and add the headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = unquote(unquote(str(scope.get("path", "")))).lower()
        _, asks_for_file, named = path.partition("file=")
        if (
            asks_for_file
            and "://" in named.replace(":/", "://", 1)
            or path.startswith(("/proxy=", "/gradio_api/proxy="))
        ):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"Addresses are not fetched here."})
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self.headers]
            await send(message)

        await self.app(scope, receive, with_headers)
