"""Bases from the model hub: fetched, recorded by commit, and asked for again. A server in this process stands for the hub."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import polars as pl
import pytest
from conftest import catcli
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from small_bases import save_base

from catcli.adapter.folder import load_adapter
from catcli.models import hub as models_hub

pytestmark = pytest.mark.slow

COMMIT, OFFERED = "a" * 40, "b" * 40
NOWHERE = "http://127.0.0.1:9"


@dataclass
class Hub:
    """Repositories: by name and revision a commit, and by commit the files."""

    address: str = ""
    revisions: dict[tuple[str, str], str] = field(default_factory=dict)
    files: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    offers: dict[str, str] = field(default_factory=dict)  # what became of the converter's offer for a repository
    asked: list[str] = field(default_factory=list)

    def add(self, name: str, revision: str, commit: str, folder: Path, *, without: str = "") -> None:
        """Serve a folder's files."""
        self.revisions[name, revision] = self.revisions[name, commit] = commit
        self.files[commit] = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != without}


def _sha1(content: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(path)
        parts = path.strip("/").split("/")
        if path.startswith("/api/models/") and "discussions" in parts:
            name = "/".join(parts[2:4])
            found = (
                [
                    {
                        "num": 7,
                        "title": "x",
                        "status": self.hub.offers[name],
                        "author": {"name": "SFconvertbot"},
                        "createdAt": "2024-01-01T00:00:00.000Z",
                        "isPullRequest": True,
                        "repo": {"name": name, "type": "model"},
                    }
                ]
                if name in self.hub.offers
                else []
            )
            self._answer(json.dumps({"discussions": found, "count": len(found), "start": 0}).encode())
        elif path.startswith("/api/models/") and "tree" in parts[4:5]:  # huggingface_hub 2 asks for this list
            files = self.hub.files[parts[5]]
            listed = [{"type": "file", "path": name, "size": len(content), "oid": _sha1(content)} for name, content in files.items()]
            self._answer(json.dumps(listed).encode())
        elif path.startswith("/api/models/"):
            name, revision = "/".join(parts[2:4]), "/".join(parts[5:]) or "main"
            commit = self.hub.revisions.get((name, revision))
            if commit is None:
                known = any(other == name for other, _ in self.hub.revisions)
                self._answer(b"{}", 404, {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})
                return
            siblings = [{"rfilename": file} for file in self.hub.files[commit]]
            self._answer(json.dumps({"id": name, "modelId": name, "sha": commit, "siblings": siblings}).encode())
        elif "resolve" in parts:
            content = self.hub.files[parts[3]][parts[4]]
            self._answer(content, headers={"X-Repo-Commit": parts[3], "ETag": f'"{hashlib.sha256(content).hexdigest()}"'})
        else:
            self._answer(b"{}", 404, {"X-Error-Code": "EntryNotFound"})

    def _answer(self, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name that the class has
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with nothing in it."""
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": made}))
    made.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base("gpt2", tmp_path_factory.mktemp("hub") / "gpt2")


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "products.csv"
    rows = [(f"{word} {number}", kind) for number in range(20) for word, kind in (("blue mug", "Mugs"), ("cordless drill", "Drills"))]
    pl.DataFrame(rows, schema=["title", "category"], orient="row").write_csv(file)
    return file


def test_a_base_is_fetched_recorded_by_its_commit_and_asked_for_again(
    hub: Hub, gpt2: Path, products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("openai-community/gpt2", "main", COMMIT, gpt2)
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    fit = ["fit", str(products), "--epochs", "1", "--no-refit", "--device", "cpu", "-q"]
    catcli(*fit, "--base", "gpt2", "-o", "one", cwd=tmp_path, check=True)
    base = load_adapter(tmp_path / "one").manifest.base
    assert (base.name, base.hub, base.revision) == (f"openai-community/gpt2@{COMMIT}", "openai-community/gpt2", COMMIT)
    assert base.sha256 == hashlib.sha256((gpt2 / "model.safetensors").read_bytes()).hexdigest()
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("openai-community/gpt2", COMMIT)

    # The hub has moved on; the adapter's recipe asks for what it was made of.
    other = save_base("gpt2", tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text().replace('"n_layer": 2', '"n_layer": 1'))
    hub.add("openai-community/gpt2", "main", OFFERED, other)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "another-cache"))
    catcli("fit", products, "--recipe", tmp_path / "one" / "recipe.json", "-o", "two", "-q", cwd=tmp_path, check=True)
    found = [load_adapter(tmp_path / name).manifest for name in ("one", "two")]
    assert found[0].base == found[1].base
    assert found[0].files["adapter_model.safetensors"] == found[1].files["adapter_model.safetensors"]

    # What was fetched once needs no hub.
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    catcli(*fit, "--base", f"gpt2@{COMMIT}", "-o", "three", cwd=tmp_path, check=True)


def test_pickles_are_not_loaded_and_what_the_converter_offers_is_once_it_is_merged_or_named(
    hub: Hub, gpt2: Path, products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pickled").mkdir()
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / "pickled" / file).write_bytes((gpt2 / file).read_bytes())
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"never read")
    hub.add("shop/pickled", "main", COMMIT, tmp_path / "pickled")
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    fit = ["fit", str(products), "--base", "shop/pickled", "--epochs", "1", "--no-refit", "--device", "cpu", "-q", "-o", "one"]
    refused = catcli(*fit, cwd=tmp_path)
    assert refused.returncode == 1
    assert "shop/pickled: the hub holds no safetensors of it at its main branch, and pickled weights, which can run code" in " ".join(
        refused.stderr.split()
    )
    hub.offers["shop/pickled"] = "open"
    hub.add("shop/pickled", "refs/pr/7", OFFERED, gpt2)
    refused = catcli(*fit, cwd=tmp_path)
    assert refused.returncode == 1
    assert (
        "its converter offers some as refs/pr/7, which the model's owners have not merged: look at it there and name it, "
        "--base shop/pickled@refs/pr/7."
    ) in " ".join(refused.stderr.split())
    pinned = [word.replace("shop/pickled", "shop/pickled@refs/pr/7") for word in fit]
    catcli(*pinned, cwd=tmp_path, check=True)
    assert load_adapter(tmp_path / "one").manifest.base.revision == OFFERED
    hub.offers["shop/pickled"] = "merged"
    catcli(*fit, "--force", cwd=tmp_path, check=True, HF_HOME=str(tmp_path / "another cache"))
    assert load_adapter(tmp_path / "one").manifest.base.revision == OFFERED
    assert not any(path.endswith(".bin") for path in hub.asked)


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ("shop/none", "--base shop/none: the hub has no such model, or it is private and HF_TOKEN is not its owner's"),
        ("openai-community/gpt2@v9", "--base openai-community/gpt2@v9: the hub has this model, and no such revision of it."),
        ("gpt-2", "--base gpt-2 is none of minilm, bert, "),
        ("./models/none", "--base ./models/none: there is no such folder; give the folder of a model, or a name such as 'bert'"),
        ("minilm@v1", "--base minilm@v1: write NAME@REVISION for a model on the hub; the embedded minilm has no revisions."),
    ],
)
def test_a_base_that_cannot_be_had_gets_a_sentence(
    hub: Hub, gpt2: Path, products: Path, tmp_path: Path, base: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("openai-community/gpt2", "main", COMMIT, gpt2)
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    result = catcli("fit", products, "--base", base, "-o", "one", "-q", cwd=tmp_path, COLUMNS="400")
    assert result.returncode == (2 if base == "minilm@v1" else 1)
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("kind", HfHubHTTPError.__bases__)  # requests' error, or since huggingface_hub 1 one that is no OSError
def test_a_connection_that_breaks_offers_nothing(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise kind("the server hung up")

    monkeypatch.setattr(HfApi, "get_repo_discussions", broken)
    assert models_hub._converted("shop/pickled") == []


def test_without_a_connection_both_ways_out_are_named(products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    result = catcli("fit", products, "--base", "roberta", "-o", "one", "-q", cwd=tmp_path, COLUMNS="400")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (  # after what -q keeps: that these are few rows
        "error: --base FacebookAI/roberta-base: the model hub cannot be reached from here and this machine has no copy; fetch it where "
        "there is a connection with 'hf download FacebookAI/roberta-base' and pass its folder as --base, or leave --base out for the "
        "embedded minilm."
    )
