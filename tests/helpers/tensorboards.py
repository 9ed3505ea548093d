"""TensorBoard over a log folder: its application in this process, and the real command with the plugin."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tensorboard.backend.application import TensorBoardWSGI
from tensorboard.backend.event_processing.data_ingester import (
    DEFAULT_SIZE_GUIDANCE,
    DEFAULT_TENSOR_SIZE_GUIDANCE,
)
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.test import Client, TestResponse

from lightning_drift.tensorboard.plugin import CorridorPlugin

PLACE = "/data/plugin/corridor/"


class Board:
    """TensorBoard's application with the plugin alone, over its own reader of event files.

    Args:
        logdir: The log folder.
    """

    def __init__(self, logdir: Path) -> None:
        self.logdir = logdir
        self._multiplexer = EventMultiplexer(
            size_guidance=DEFAULT_SIZE_GUIDANCE, tensor_size_guidance=DEFAULT_TENSOR_SIZE_GUIDANCE
        )
        provider = MultiplexerDataProvider(self._multiplexer, str(logdir))
        self.plugin = CorridorPlugin(TBContext(data_provider=provider, logdir=str(logdir)))
        self._client = Client(TensorBoardWSGI([self.plugin], data_provider=provider))
        self.reload()

    def reload(self) -> Self:
        """Read what was logged meanwhile, as TensorBoard does every few seconds."""
        self._multiplexer.AddRunsFromDirectory(str(self.logdir))
        self._multiplexer.Reload()
        return self

    def get(self, place: str, **headers: str) -> TestResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._client.get(PLACE + place, headers=named)

    def post(self, place: str) -> TestResponse:
        return self._client.post(PLACE + place)

    def json(self, place: str) -> Any:
        answer = self.get(place)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.text)

    def page(self, group: str = ".") -> Any:
        return self.json(f"page?group={group}")


class Process:
    """The real ``tensorboard`` command in a process of its own, which finds the plugin by its entry point.

    Args:
        logdir: The log folder.
        scratch: A folder for the log.
    """

    def __init__(self, logdir: Path, scratch: Path) -> None:
        root = Path(__file__).parents[2]
        path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
        scratch.mkdir(parents=True, exist_ok=True)
        self._log = scratch / "tensorboard.log"
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", "0"]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--reload_interval", "1"],
                env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.address = self._found()

    def _found(self) -> str:
        for _ in range(600):
            match = re.search(r"http://127\.0\.0\.1:\d+", self.log)
            if match:
                return match[0]
            assert self._process.poll() is None, self.log
            time.sleep(0.1)
        raise AssertionError(f"TensorBoard does not start: {self.log}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text(errors="replace")

    def get(self, place: str) -> bytes:
        with urllib.request.urlopen(self.address + place, timeout=120) as answer:
            data: bytes = answer.read()
        return data

    def json(self, place: str) -> Any:
        return json.loads(self.get(place))

    def changed(self, place: str, etag: str) -> int:
        """The status for a browser that has what an ETag names."""
        asked = urllib.request.Request(self.address + place, headers={"If-None-Match": etag})
        try:
            with urllib.request.urlopen(asked, timeout=120) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def etag(self, place: str) -> str:
        with urllib.request.urlopen(self.address + place, timeout=120) as answer:
            return str(answer.headers["ETag"])
