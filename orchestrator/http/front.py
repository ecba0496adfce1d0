"""The page at `/`, and what it has to know of the pair before it asks for a text."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bild_dist import __version__
from bild_dist.orchestrator.http.events import number
from bild_dist.orchestrator.http.house import House
from bild_dist.types import Mode

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_SHARED: Final = frozenset(("colours.css",))
"""Files of the page that lie beside the timeline's, which has them too."""
_HEADERS: Final = {
    # Own files and nothing else: no inline script or style, no other host, no frame, no markup made of
    # text. So a text that a model wrote stays a text, whatever it says.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # files of another version of the server do not fit together
}


class Front:
    """Serves the page. Immutable."""

    def __init__(self, house: House) -> None:
        self._house = house

    def routes(self) -> list[Route]:
        """The paths of the page; all it asks for lies below them and the API's."""
        return [
            Route("/", self.file, methods=["GET"]),
            Route("/page/settings", self.settings, methods=["GET"]),
            Route("/page/{name}", self.file, methods=["GET"]),
        ]

    async def file(self, request: Request) -> Response:
        """One of the page's files. Needs no key: it is where keys are typed in."""
        name = request.path_params.get("name", "index.html")
        kind = _TYPES.get(name.rpartition(".")[2])
        home = files("bild_dist.orchestrator")
        folder = home if name in _SHARED else home.joinpath("http").joinpath("page")
        file = folder.joinpath(name)
        if kind is None or "/" in name or name.startswith(".") or not file.is_file():
            raise HTTPException(404)
        return Response(file.read_bytes(), media_type=kind, headers=_HEADERS)

    async def settings(self, request: Request) -> Response:
        """Names and settings of the pair: what the page's controls say at first."""
        self._house.keys.check(request.headers)
        decoder = self._house.keeping.decoder
        options, text = decoder.options, decoder.text
        # A model's own name comes behind the one that every model of its role has.
        names = {mode: name for name, mode in self._house.models(decoder).items()}
        told: dict[str, Any] = {
            "version": __version__,
            "name": self._house.config.name,
            "small": names[Mode.SMALL],
            "large": names[Mode.LARGE],
            "chat": text is not None and text.has_chat_template,
            "options": {
                "mode": options.mode.value,
                "alpha_fb": number(options.alpha_fb),
                "alpha_rb": number(options.alpha_rb),
                "window": options.window,
                "max_tokens": options.max_new_tokens,
                "temperature": options.temperature,
                "seed": options.seed,
                "schedule": None if options.schedule is None else options.schedule.value,
            },
        }
        return JSONResponse(told)
