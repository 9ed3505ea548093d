"""The page of a labeller, served to one browser on this machine."""

from __future__ import annotations

import hmac
import json
import re
import secrets
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lightning_drift.common.errors import UserError, notice
from lightning_drift.corridor.label.exhibit import Exhibit
from lightning_drift.corridor.label.labels import Labels
from lightning_drift.drift.verdict import ZONES
from lightning_drift.pages.page import render

ADDRESS = "127.0.0.1"
_LARGEST = 4096
"""Bytes of what a page may send."""

LEAD = (
    "Each cell is one checkpoint of a fit, which one is not told. Compare its pictures with the base model's "
    "of the same prompts and seeds, and say where it is."
)
ABOUT = {
    "under-drifted": "almost the base's pictures",
    "dreaming": "prompts hold; the photos have come in",
    "forgetting": "prompts hold in part only",
    "cooked": "the photos, whatever is asked",
    "broken": "fallen apart, not to the photos",
}
"""What each zone looks like, in a few words."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class LabelServer(ThreadingHTTPServer):
    """Serves the page and its data, and keeps what is said.

    It listens on this machine alone. Every address begins with a random token, and a request must name this
    machine as its host: a page of elsewhere whose name was made to lead here (DNS rebinding) names its own.
    What is served are pictures by number, prompts and what was said; no path, no run, no rate and no step.

    Args:
        exhibit: What is shown.
        labels: What was said of each corridor's cells.
        finish: Called once when the labeller is done; returns what the page then says. Of its exceptions
            UserError and OSError become a sentence on the page, which goes on.
        port: Where to listen; 0 for any free port.

    Attributes:
        url: The page's address with its token.
        saving: Held while something is written.

    Raises:
        OSError: The port cannot be listened on.
    """

    daemon_threads = True

    def __init__(
        self, exhibit: Exhibit, labels: list[Labels], finish: Callable[[], list[str]], port: int = 0
    ) -> None:
        self.exhibit, self.labels, self.finish = exhibit, labels, finish
        self.saving = threading.Lock()
        self.token = secrets.token_urlsafe(32)
        super().__init__((ADDRESS, port), _Handler)
        self.url = f"http://{ADDRESS}:{self.server_port}/{self.token}/"

    @property
    def said(self) -> list[str | None]:
        """What was said of each cell, in the order in which they are shown."""
        return [self.labels[cell.corridor].zones.get(cell.key) for cell in self.exhibit.cells]

    def page(self) -> str:
        """The page as text."""
        cells = [cell.corridor for cell in self.exhibit.cells]
        return render(
            "corridor/label/page.html",
            title="Which zone is it?",
            eyebrow="Blind labels",
            lead=LEAD,
            small_pictures=False,
            zones=ABOUT,
            data={"zones": ZONES, "cells": cells, "labels": self.said},
        )

    def say(self, cell: int, zone: str | None) -> None:
        """Keep what was said of a cell."""
        shown = self.exhibit.cells[cell]
        with self.saving:
            self.labels[shown.corridor].say(shown.key, zone)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is no news; anything else is told in a line."""
        error = sys.exception()
        if not isinstance(error, OSError):
            notice(f"a request of the page failed: {error!r}")


class _Handler(BaseHTTPRequestHandler):
    """Answers one request; a connection that says nothing is dropped after a minute."""

    server: LabelServer
    timeout = 60
    server_version, sys_version = "lightning-drift", ""

    def do_GET(self) -> None:
        """The page, a corridor's base pictures, or a cell's pictures."""
        place = self._place()
        if place is None:
            return
        exhibit = self.server.exhibit
        if place == "":
            self._answer(200, self.server.page().encode(), "text/html; charset=utf-8")
        elif (index := _number("corridor", place, len(exhibit.tables))) is not None:
            self._json(exhibit.corridor(index))
        elif (index := _number("cell", place, len(exhibit.cells))) is not None:
            self._json({"pictures": exhibit.pictures(index)})
        else:
            self._refuse(404, "there is nothing at this address")

    def do_POST(self) -> None:
        """A label, or the end."""
        place = self._place()
        if place is None:
            return
        if self.headers.get("Origin") not in (None, f"http://{self.headers.get('Host')}"):
            self._refuse(403, "this was sent by another page")
            return
        content = self._content()
        if content is None:
            return
        try:
            if place == "label":
                self._label(content)
            elif place == "finish":
                with self.server.saving:
                    sentences = self.server.finish()
                self._json({"sentences": sentences})
                threading.Thread(target=self.server.shutdown).start()
            else:
                self._refuse(404, "there is nothing at this address")
        except UserError as error:
            self._refuse(409, str(error))
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise
            self._refuse(507, f"it cannot be written: {error.strerror or error}")

    def _label(self, content: dict[str, Any]) -> None:
        cell, zone = content.get("cell"), content.get("zone")
        if type(cell) is not int or not 0 <= cell < len(self.server.exhibit.cells):
            self._refuse(400, "there is no such cell")
        elif zone is not None and zone not in ZONES:
            self._refuse(400, "there is no such zone")
        else:
            self.server.say(cell, zone)
            self._json({"labels": self.server.said})

    def _place(self) -> str | None:
        """What is asked for, behind the token; None, and refused, where it is not ours to answer."""
        host = self.headers.get("Host") or ""
        if len(self.headers.get_all("Host") or []) != 1 or not re.fullmatch(
            r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", host
        ):
            self._refuse(403, "this page is for a browser on its own machine")
            return None
        token, _, place = self.path.partition("?")[0].removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(403, "the address lacks its token; take it from the terminal")
            return None
        return place

    def _content(self) -> dict[str, Any] | None:
        """The JSON object that was sent; None, and refused, where there is none."""
        length = self.headers.get("Content-Length") or ""
        if not re.fullmatch("[0-9]{1,6}", length) or int(length) > _LARGEST:
            self._refuse(413, "too much was sent, or nothing")
        elif self.headers.get_content_type() != "application/json":
            self._refuse(415, "JSON was not sent")
        else:
            try:
                content = json.loads(self.rfile.read(int(length)))
            except (ValueError, RecursionError):
                content = None
            if isinstance(content, dict):
                return content
            self._refuse(400, "no JSON object was sent")
        return None

    def _json(self, content: dict[str, Any]) -> None:
        self._answer(200, json.dumps(content).encode(), "application/json")

    def _refuse(self, status: int, reason: str) -> None:
        self._answer(status, json.dumps({"error": reason}).encode(), "application/json")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in (_HEADERS | {"Content-Type": kind, "Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not listed."""


def _number(kind: str, place: str, count: int) -> int | None:
    """The number in an address such as ``cell/3``; None if it is another address or there is none such."""
    match = re.fullmatch(rf"{kind}/([0-9]{{1,6}})", place)
    return int(match[1]) if match and int(match[1]) < count else None
