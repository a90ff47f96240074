"""``hf:ORG/NAME``, against a server on loopback that speaks the hub's protocol: nothing here leaves the machine."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from nnunet_genesis import importers
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers import hub, repository
from tests.nnunet_genesis.importers.test_planned_files import nnssl_content
from tests.nnunet_genesis.importers.test_repository import README

library = pytest.importorskip("huggingface_hub.constants", reason="the extra [hub] is not installed")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves ``files`` as the repository ORG/NAME; ``cut``: breaks the next transfers off after half of the bytes."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.cut, self.announced, self.digest = files, 0, {}, None
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        if path.startswith("/api/models/ORG/NAME") and path.rpartition("/")[2] in ("NAME", "main", COMMIT):
            self._send(json.dumps(self._info()).encode(), {"Content-Type": "application/json"})
        elif path.startswith(f"/ORG/NAME/resolve/{COMMIT}/") and path.rpartition("/")[2] in self.server.files:
            self._file(path.rpartition("/")[2])
        else:
            self._send(b"{}", {"X-Error-Code": "RepoNotFound"}, status=404)

    def _info(self) -> dict:
        siblings = [
            {"rfilename": name, "size": self.server.announced.get(name, len(content)), "blobId": "b"}
            | ({"lfs": {"sha256": self.server.digest or hashlib.sha256(content).hexdigest(), "size": len(content),
                        "pointerSize": 1}} if name.endswith(".pth") else {})
            for name, content in self.server.files.items()
        ]  # fmt: skip
        return {"id": "ORG/NAME", "modelId": "ORG/NAME", "sha": COMMIT, "private": False, "siblings": siblings,
                "tags": [], "downloads": 0, "likes": 0}  # fmt: skip

    def _file(self, name: str) -> None:
        content = self.server.files[name]
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0] or 0)
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self._send(content[first:], headers, 206 if first else 200)

    def _send(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.cut and len(body) > 20_000:
            self.server.cut -= 1
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(body)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The server, as what HF_ENDPOINT names, and an empty cache."""
    torch.save(nnssl_content(), tmp_path / "c.pth")
    files = {
        repository.CHECKPOINT: (tmp_path / "c.pth").read_bytes(),
        repository.README: README.encode(),
        repository.PLAN: json.dumps(nnssl_content()["nnssl_adaptation_plan"]).encode(),
        "banner.webp": bytes(3_000_000),
    }
    with Hub(files) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{made.server_port}"
        # what the library makes of HF_ENDPOINT and HF_HUB_CACHE when it is imported
        monkeypatch.setattr(library, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(library, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(library, "HF_HUB_CACHE", str(tmp_path / "the cache"))
        yield made
        made.shutdown()


def test_what_is_fetched_is_said_first_and_recorded(server, capsys):
    folder, source = hub.fetch("hf:ORG/NAME")
    said = capsys.readouterr().out
    record = importers.convert(folder, origin=source).record
    checkpoint = server.files[repository.CHECKPOINT]
    assert record["imported"]["source"] == f"hf:ORG/NAME@{COMMIT}"
    assert record["imported"]["sha256"] == hashlib.sha256(checkpoint).hexdigest()
    assert record["licence"] == "cc-by-sa-4.0"
    assert f"127.0.0.1:{server.server_port}/ORG/NAME, commit {COMMIT}" in said
    assert f"checkpoint_final.pth ({len(checkpoint):,} bytes)" in said
    assert not any("banner" in path for path in server.asked)
    asked = len([path for path in server.asked if path.startswith("GET /ORG")])
    assert hub.fetch("hf:ORG/NAME@main") == (folder, source)
    assert len([path for path in server.asked if path.startswith("GET /ORG")]) == asked  # from the cache


def test_the_command_asks_whom_the_librarys_variable_names(server, tmp_path):
    variables = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "a home")}
    command = [sys.executable, "-c", "from nnunet_genesis.cli import import_; import_()", "hf:ORG/NAME", "-o", "g.pth"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"Fetching from {variables['HF_ENDPOINT']}/ORG/NAME, commit {COMMIT}" in done.stdout
    assert f"source hf:ORG/NAME@{COMMIT}" in done.stdout
    assert (tmp_path / "a home" / "hub").is_dir()


def test_a_download_that_is_cut_off_goes_on(server):
    server.cut = 1
    folder, _ = hub.fetch("hf:ORG/NAME")
    assert (folder / repository.CHECKPOINT).read_bytes() == server.files[repository.CHECKPOINT]


def test_a_server_that_always_cuts_is_a_message_and_the_next_call_goes_on(server):
    server.cut = 1000
    with pytest.raises(GenesisError, match=r"hf:ORG/NAME: can't be fetched \(.*run the command again"):
        hub.fetch("hf:ORG/NAME")
    server.cut = 0
    folder, _ = hub.fetch("hf:ORG/NAME")
    assert (folder / repository.CHECKPOINT).read_bytes() == server.files[repository.CHECKPOINT]


def test_another_size_or_digest_than_announced(server):
    server.announced = {repository.CHECKPOINT: 10**10}
    with pytest.raises(GenesisError, match=r"bytes, expected 10,000,000,000, as announced. It was removed"):
        hub.fetch("hf:ORG/NAME")
    server.announced, server.digest = {}, "0" * 64
    with pytest.raises(GenesisError, match="another SHA-256"):
        hub.fetch("hf:ORG/NAME")
    server.digest = None
    hub.fetch("hf:ORG/NAME")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:ORG", "expected hf:ORG/NAME"),
        ("hf:../../etc", "expected hf:ORG/NAME"),
        ("hf:ORG/NAME/x", "expected hf:ORG/NAME"),
        ("hf:ORG/OTHER", "can't be fetched"),
    ],
)
def test_names_that_mean_nothing(server, name, message):
    with pytest.raises(GenesisError, match=message):
        hub.fetch(name)


def test_a_repository_without_weights_and_a_huge_readme(server):
    server.announced = {repository.README: 10**9}
    with pytest.raises(GenesisError, match=r"README.md has 1,000,000,000 bytes"):
        hub.fetch("hf:ORG/NAME")
    del server.files[repository.CHECKPOINT]
    with pytest.raises(GenesisError, match=r"expected checkpoint_final.pth, found README.md"):
        hub.fetch("hf:ORG/NAME")


def test_no_other_way_of_giving_weights_fetches(server):
    with pytest.raises(GenesisError, match="Nothing is downloaded here"):
        importers.read("hf:ORG/NAME")
    assert not server.asked
