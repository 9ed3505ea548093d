"""The plugin: what TensorBoard loads at its start, and its answers. Our readers come with the first request.

Registered as ``corridor`` under the entry points ``tensorboard_plugins``.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from tensorboard import plugin_util  # type: ignore[import-untyped]
from tensorboard.backend import http_util  # type: ignore[import-untyped]
from tensorboard.context import RequestContext  # type: ignore[import-untyped]
from tensorboard.plugins.base_plugin import FrontendMetadata, TBContext, TBPlugin  # type: ignore[import-untyped]
from werkzeug import Request, Response

from lightning_drift.tensorboard.own_runs import OwnRuns
from lightning_drift.tensorboard.own_sweeps import OwnSweeps

if TYPE_CHECKING:
    from lightning_drift.tensorboard.board import Board
    from lightning_drift.tensorboard.logged import Provider
    from lightning_drift.tensorboard.sweeps import Sweeps

_PACKAGE = Path(__file__).parents[1]
_SCRIPTS = ("pages/base.js", "corridor/page.js", "tensorboard/tab.js")
_STYLES = ("pages/base.css", "corridor/page.css", "tensorboard/tab.css")


class CorridorPlugin(TBPlugin):  # type: ignore[misc]
    """The tab Corridor.

    Args:
        context: TensorBoard's data and log folder. Without a log folder of its own (``--logdir_spec``) the
            tab has nothing to show.
    """

    plugin_name = "corridor"

    def __init__(self, context: TBContext) -> None:
        self._provider = context.data_provider
        folder = context.logdir
        root = Path(os.path.abspath(os.path.expanduser(folder))) if folder else None
        self._own = OwnRuns(root) if root else None
        self._own_sweeps = OwnSweeps(root) if root else None
        self._board: Board | None = None
        self._sweeps: Sweeps | None = None
        self._lock = threading.Lock()

    def get_plugin_apps(self) -> dict[str, Any]:
        """The answers by their places below ``/data/plugin/corridor``."""
        return {
            "/index.js": self._app(self._script),
            "/groups": self._app(self._groups),
            "/page": self._app(self._page),
            "/picture": self._app(self._picture),
            "/sweeps": self._app(self._sweep_list),
            "/sweep": self._app(self._sweep),
        }

    def is_active(self) -> bool:
        """Whether the log folder holds a run or a sweep of ours; a few bytes of each file tell."""
        if self._own is None or self._own_sweeps is None:
            return False
        try:
            runs = self._provider.list_runs(RequestContext(), experiment_id="")
            return any(self._own.is_ours(run.run_name) for run in runs) or bool(self._own_sweeps.folders())
        except Exception:  # TensorBoard would go on without any of its tabs
            return False

    def frontend_metadata(self) -> FrontendMetadata:
        """The tab's name, and its script; the tab asks for what is new by itself."""
        return FrontendMetadata(es_module_path="/index.js", tab_name="Corridor", disable_reload=True)

    def _app(self, answer: Callable[[Request], Response]) -> Any:
        @Request.application
        def app(request: Request) -> Response:
            if request.method not in ("GET", "HEAD"):
                return _text(request, "only GET is answered", 405)
            return answer(request)

        return app

    def _script(self, request: Request) -> Response:
        """The module that TensorBoard loads, with the page's scripts and styles in it."""
        style = "\n".join((_PACKAGE / name).read_text(encoding="utf-8") for name in _STYLES)
        scripts = [(_PACKAGE / name).read_text(encoding="utf-8") for name in _SCRIPTS]
        # The last one is the module's own, which uses what comes before it.
        module = "\n".join([*scripts[:-1], f"const STYLE = {json.dumps(style)};", scripts[-1]])
        response: Response = http_util.Respond(request, module, "application/javascript")
        return response

    def _groups(self, request: Request) -> Response:
        if self._own is None:
            return _json(request, {"folder": "", "groups": []})
        groups = self._loaded().groups(self._asked(request))
        return _json(request, {"folder": str(self._own.root), "groups": groups})

    def _page(self, request: Request) -> Response:
        name = _query(request, "group")
        page = None if self._own is None or name is None else self._loaded().page(self._asked(request), name)
        return _text(request, "there is no such group", 404) if page is None else _json(request, page)

    def _picture(self, request: Request) -> Response:
        place = _query(request, "path")
        picture = None
        if self._own is not None and place is not None:
            picture = self._loaded().pictures.send(place, _query(request, "side"))
        if picture is None:
            return _text(request, "there is no such picture", 404)
        # An address with the file's version never means anything else.
        lasts = _query(request, "v") == picture.version
        headers = {
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "private, max-age=31536000, immutable" if lasts else "no-cache",
        }
        return Response(picture.data, content_type=picture.kind, headers=headers)

    def _sweep_list(self, request: Request) -> Response:
        return _json(request, {"sweeps": [] if self._own is None else self._loaded_sweeps().listed()})

    def _sweep(self, request: Request) -> Response:
        name = _query(request, "name")
        page = None if self._own is None or name is None else self._loaded_sweeps().page(name)
        if page is None:
            return _text(request, "there is no such sweep, or it cannot be read", 404)
        headers = {
            "Content-Security-Policy": page.policy,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-cache",
        }
        # TensorBoard's own answers allow no script in HTML.
        return Response(page.html, content_type="text/html; charset=utf-8", headers=headers)

    def _loaded(self) -> "Board":
        self._load()
        assert self._board is not None
        return self._board

    def _loaded_sweeps(self) -> "Sweeps":
        self._load()
        assert self._sweeps is not None
        return self._sweeps

    def _load(self) -> None:
        assert self._own is not None
        assert self._own_sweeps is not None
        with self._lock:
            if self._board is None:
                from lightning_drift.tensorboard.board import Board
                from lightning_drift.tensorboard.pictures import PictureFiles
                from lightning_drift.tensorboard.sweeps import Sweeps

                pictures = PictureFiles(self._own_sweeps)
                self._sweeps = Sweeps(self._own_sweeps, pictures)
                self._board = Board(self._own, pictures)

    def _asked(self, request: Request) -> "Provider":
        from lightning_drift.tensorboard.logged import Provider

        environ = request.environ
        return Provider(self._provider, plugin_util.context(environ), plugin_util.experiment_id(environ))


class _NotModified(Response):
    """The answer 304, with a media type that Werkzeug leaves out and of whose absence TensorBoard warns."""

    def get_wsgi_headers(self, environ: Any) -> Any:
        headers = super().get_wsgi_headers(environ)
        headers["Content-Type"] = "application/json"
        return headers


def _query(request: Request, name: str) -> str | None:
    """A value of the query. Names of files may be of any bytes, which come back as they were."""
    text = request.environ.get("QUERY_STRING", "")
    values = parse_qs(text, keep_blank_values=True, errors="surrogateescape").get(name)
    return values[0] if values else None


def _json(request: Request, content: dict[str, Any]) -> Response:
    """Content as JSON, or 304 if the browser has just that."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    etag = f'W/"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'  # weak, as it may be sent packed
    if etag in (each.strip() for each in request.headers.get("If-None-Match", "").split(",")):
        headers = {"ETag": etag, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
        return _NotModified(status=304, headers=headers)
    response: Response = http_util.Respond(request, text, "application/json", headers=[("ETag", etag)])
    return response


def _text(request: Request, text: str, code: int) -> Response:
    response: Response = http_util.Respond(request, text, "text/plain", code=code)
    return response
