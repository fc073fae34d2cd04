"""What lies outside `/v1/`: the root, the web interface's files and `/debug/pprof/`.

The web interface is static files of our own, and no answer here holds anything of the request. Its page allows itself
scripts and styles of its own origin only (a `meta` policy: the recorded answers have no such header, so neither have
ours).
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from importlib.resources import files
from urllib.parse import quote

from pyconsul_agent.interfaces.http.message import TEXT, Request, Response, text_response
from pyconsul_agent.interfaces.http.profiles import Profiles

HTML = "text/html; charset=utf-8"
ROBOTS = b"# http://www.robotstxt.org\nUser-agent: *\nDisallow: /\n"
ASSETS = {
    "index.html": HTML,
    "app.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
}
ASSET_HEADERS = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'"}


@dataclass(frozen=True, slots=True)
class UI:
    """Where the web interface is, if it is; `since` is its `Last-Modified`."""

    enabled: bool = False
    content_path: str = "/ui/"
    since: str = "Thu, 01 Jan 1970 00:00:00 GMT"
    assets: dict[str, bytes] = field(default_factory=dict)


def load_ui(content_path: str, since: str) -> UI:
    """The interface with its files, from the package."""
    path = "/" + content_path.strip("/")
    path = path if path.endswith("/") else path + "/"
    folder = files("pyconsul_agent.interfaces.http").joinpath("ui")
    base = html.escape(quote(path, safe="/"), quote=True).encode()
    assets = {name: folder.joinpath(name).read_bytes().replace(b"{{base}}", base) for name in ASSETS}
    return UI(True, path, since, assets)


class Outside:
    """Answers paths that no route has; None where there is nothing either."""

    def __init__(self, ui: UI, profiles: Profiles | None = None) -> None:
        self._ui = ui
        self._profiles = profiles

    def show(self, ui: UI) -> None:
        """Offer the web interface, or offer it no more, from now on (reload)."""
        self._ui = ui

    def __call__(self, request: Request) -> Response | None:
        path = request.path
        if path.startswith("/debug/pprof/"):
            return self._debug(request)
        if not self._ui.enabled:
            return Response(200, b"Consul Agent", TEXT) if path == "/" else None
        base = self._ui.content_path
        if path in ("/", base[:-1]) and path != base:
            return _moved(base, request.method)
        if path.startswith(base):
            return self._file(path.removeprefix(base))
        if path == "/robots.txt":
            return self._static(ROBOTS, TEXT)
        return None

    def _file(self, name: str) -> Response:
        """One of the files; any other path is the page, which finds its way itself."""
        name = name if name in ASSETS else "index.html"
        response = self._static(self._ui.assets[name], ASSETS[name])
        if name != "index.html":
            response.headers.update(ASSET_HEADERS)
        return response

    def _static(self, body: bytes, content_type: str) -> Response:
        return Response(200, body, content_type, {"Accept-Ranges": "bytes", "Last-Modified": self._ui.since})

    def _debug(self, request: Request) -> Response:
        if self._profiles is None:
            response = text_response("ACL support disabled", status=401)
        else:
            response = self._profiles.answer(request)
        response.headers["Vary"] = "Accept-Encoding"
        return response


def _moved(to: str, method: str) -> Response:
    response = Response(301, headers={"Location": quote(to, safe="/")})
    if method in ("GET", "HEAD"):
        response.body = f'<a href="{html.escape(quote(to, safe="/"))}">Moved Permanently</a>.\n\n'.encode()
        response.content_type = HTML
    return response
