"""Knows what every answer of the page carries and which requests get one: the rules a browser is held to.

Nothing but GET and HEAD, only for a host we are called by (a page of somebody else may point its own name at this
computer), nothing loaded from elsewhere, no script but our own file. Any thread.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from flask import Flask, Request, Response, abort, request

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
METHODS = ("GET", "HEAD")
_HOST = re.compile(r"(\[[0-9a-f:]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?", re.ASCII)
_OWN = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|\[::1\]", re.ASCII)


def install(site: Flask, hosts: Collection[str]) -> None:
    """Hold every request of a site to the rules. `hosts`: further names in lower case."""

    @site.before_request
    def _check() -> None:
        if request.method not in METHODS:
            abort(405)
        if not is_ours(_host(request), hosts):
            abort(421)

    @site.after_request
    def _mark(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        if response.status_code == 405:
            response.headers["Allow"] = ", ".join(METHODS)
        return response


def is_ours(host: str, hosts: Collection[str]) -> bool:
    """Whether a Host header names this computer's loopback, at any port (a tunnel has its own), or one of `hosts`."""
    match = _HOST.fullmatch(host.lower())
    return match is not None and (bool(_OWN.fullmatch(match[1])) or match[1] in hosts)


def _host(asked: Request) -> str:
    return str(asked.environ.get("HTTP_HOST", ""))
