"""The real hub client against a small hub on this machine, and without any."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from huggingface_hub import constants

from lightning_drift.common.errors import UserError
from lightning_drift.weights.hub import fetch_file, fetch_folder

COMMIT = "c" * 40
FILES = {"config.json": b"{}", "unet/model.safetensors": b"weights", "unet/model.bin": b"the same again"}


class Hub(BaseHTTPRequestHandler):
    """Serves one repository, someone/model, of three files; knows one that is gated."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name, _, rest = path.removeprefix("/api/models/").strip("/").partition("model")
        if "someone/closed" in path:
            self._answer(403, b"", {"X-Error-Code": "GatedRepo"})
        elif name != "someone/":
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif "nowhere" in rest:
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif rest.startswith("/tree/"):
            tree = [
                {"type": "file", "path": file, "size": len(held), "oid": "0" * 40}
                for file, held in FILES.items()
            ]
            self._answer(200, json.dumps(tree).encode(), {})
        elif path.startswith("/api/"):
            siblings = [{"rfilename": file} for file in FILES]
            info = {"id": "someone/model", "sha": COMMIT, "siblings": siblings}
            self._answer(200, json.dumps(info).encode(), {})
        elif (file := rest.partition("/resolve/")[2].partition("/")[2]) in FILES:
            self._answer(200, FILES[file], {"ETag": f'"{file.replace("/", "-")}"', "X-Repo-Commit": COMMIT})
        else:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield
    server.shutdown()
    server.server_close()
    thread.join()


def safetensors_only(files: list[str]) -> list[str]:
    return [file for file in files if not file.endswith(".bin")]


def fetched(name: str = "someone/model", **more: Any) -> Any:
    return fetch_folder(name, safetensors_only, "a local folder", "model.clip", **more)


def test_the_chosen_files_are_fetched_and_found_again_without_the_hub(
    hub: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetched()
    assert folder.name == COMMIT
    held = {file: (folder / file).read_bytes() for file in safetensors_only(list(FILES))}
    assert held == {file: FILES[file] for file in safetensors_only(list(FILES))}
    assert not (folder / "unet/model.bin").exists()
    assert fetch_file("someone/model", "unet/model.bin", "a file").read_bytes() == FILES["unet/model.bin"]
    (folder / "unet/model.bin").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetched() == folder
    assert fetched(revision=COMMIT) == folder
    assert fetch_file("someone/model", "config.json", "a file") == folder / "config.json"


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("nobody/model", None, "nobody/model is neither a local path nor a public model on the hub"),
        ("someone/closed", None, "someone/closed asks for consent on its hub page"),
        ("someone/model", "nowhere", "someone/model has no revision nowhere on the hub"),
    ],
)
def test_what_the_hub_refuses_is_a_sentence(hub: None, name: str, revision: str | None, message: str) -> None:
    with pytest.raises(UserError, match=f"^model.clip: {message}") as caught:
        fetched(name, revision=revision)
    assert caught.value.option == "model.clip"


def test_without_a_hub_the_sentence_names_the_cache_and_the_way_out(
    hub: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing answers there
    with pytest.raises(UserError) as caught:
        fetched(revision="v2")
    message = "someone/model at v2 is not in the cache and the hub cannot be reached. Give a local folder"
    assert caught.value.message.startswith(message)
    assert caught.value.message.endswith(f"copy it into the cache folder {tmp_path}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"someone/model/a\.bin is not in the cache and the hub cannot"):
        fetch_file("someone/model", "a.bin", "a local file")
