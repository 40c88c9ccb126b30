"""A model's name leads to its files, from a plugin, a directory or the hub, or to an error."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest

from flowtune_cli.config.settings import ModelSettings
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.models import files as files_module
from flowtune_cli.models.files import find_model
from flowtune_cli.models.memory import Weight
from flowtune_cli.registry import load_registry
from support.installed_plugins import MODEL, Site

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Checked:
    """Remembers what it was shown, in order; refuses what it is told to."""

    def __init__(self, refused: str = "") -> None:
        self.refused = refused
        self.directories: list[Path] = []
        self.found: list[Weight] = []

    def config(self, directory: Path) -> None:
        self.directories.append(directory)
        self._maybe_refuse("config")

    def weights(self, weights: list[Weight]) -> None:
        self.found += weights
        self._maybe_refuse("weights")

    def _maybe_refuse(self, what: str) -> None:
        if self.refused == what:
            raise UsageError("does not fit")


def find(name: str, revision: str | None = None) -> tuple[Path, list[Weight]]:
    checked = Checked()
    files = find_model(ModelSettings(name=name, revision=revision), checked, load_registry())
    assert files.gguf is None
    return files.directory, checked.found


def test_a_local_directory_is_taken_as_it_is(tiny_model_dir: Path) -> None:
    directory, weights = find(str(tiny_model_dir))
    assert directory == tiny_model_dir
    assert Weight("model.embed_tokens.weight", [258, 64]) in weights


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./no/such/model", r"no model directory .*/no/such/model"),
        ("models/of/mine", r"no model directory .*/models/of/mine"),
        ("~/no/such/model.GGUF", r"no GGUF file /.*/no/such/model\.GGUF"),
        ("no spaces", r"unknown model 'no spaces'\..* A Hugging Face id has the form 'org/name'"),
        ("no spaces/here", r"'no spaces/here' is not a model: no such directory, and no Hugging"),
    ],
)
def test_a_name_that_leads_nowhere(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find(name)


def test_a_registered_model_comes_before_a_directory_of_its_name(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"small is not a model directory"):
        find("small")
    Site(tmp_path, monkeypatch).install("models", MODEL.format(directory=tiny_model_dir))
    assert find("small")[0] == tiny_model_dir
    with pytest.raises(UsageError, match=r"unknown model 'smal'\. Did you mean 'small'"):
        find("smal")
    with pytest.raises(UsageError, match=r"not on this machine.*flowtune models fetch missing"):
        find("missing")


def test_a_name_of_two_plugins_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, monkeypatch)
    for name in ("one", "two"):
        site.install(name, MODEL.format(directory=tmp_path))
    with pytest.raises(UsageError, match=r"model 'small' comes from more than one plugin"):
        find("small")


def test_without_its_plugin_the_default_model_is_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Site(tmp_path, monkeypatch)
    with pytest.raises(UsageError) as raised:
        find(ModelSettings().name)
    assert f"unknown model '{ModelSettings().name}'" in str(raised.value)
    assert str(raised.value).endswith("pip install flowtune-smollm2")


def test_gguf_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(files_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'flowtune\[gguf\]'"):
        find(str(tmp_path / "model.gguf"))


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(UsageError, match="neither a model directory nor a GGUF file"):
        find(str(tmp_path / "weights.bin"))
    (tmp_path / "broken.gguf").write_bytes(b"no GGUF at all, however long this may be")
    with pytest.raises(UsageError, match=r"broken\.gguf cannot be read as GGUF"):
        find(str(tmp_path / "broken.gguf"))


def test_a_directory_without_safetensors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no config\.json"):
        find(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UsageError, match=r"has no model\.safetensors .*no pickled weights"):
        find(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(UsageError, match="are damaged"):
        find(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match=r"is missing: .*model-00001-of-00001\.safetensors"):
        find(str(tmp_path))


def test_offline_without_a_copy() -> None:
    with pytest.raises(
        UsageError, match=r"'some/model' is not .* on this machine.*flowtune ls models"
    ):
        find("some/model")


class Hub(BaseHTTPRequestHandler):
    """As much of a model hub as loading needs: two models, one of them gated, on this machine."""

    folder: Path
    fetched: list[str]

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def do_GET(self) -> None:
        self._answer(send_body=True)

    def _answer(self, send_body: bool) -> None:
        path = self.path.split("?")[0]
        if "org/gone" in path:
            self._send(404, {"X-Error-Code": "RepoNotFound"}, b"", send_body)
        elif "org/gated/resolve" in path:
            self._send(403, {"X-Error-Code": "GatedRepo"}, b"", send_body)
        elif "/no-such-revision" in path:
            self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"", send_body)
        elif path.startswith("/api/") and "/tree/" in path:
            tree = [
                {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": f"oid-{p.name}"}
                for p in self.folder.iterdir()
            ]
            self._send(200, {}, json.dumps(tree).encode(), send_body)
        elif path.startswith("/api/"):
            info = {"id": "org/tiny", "sha": COMMIT, "siblings": []}
            self._send(200, {}, json.dumps(info).encode(), send_body)
        else:
            self._send_file(self.folder / path.rpartition("/")[2], send_body)

    def _send_file(self, file: Path, send_body: bool) -> None:
        if not file.is_file():
            self._send(404, {"X-Error-Code": "EntryNotFound"}, b"", send_body)
            return
        data, status = file.read_bytes(), 200
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            data, status = data[int(first) : int(last) + 1 if last else None], 206
        elif send_body:
            self.fetched.append(file.name)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"oid-{file.name}"'}
        self._send(status, headers, data, send_body)

    def _send(self, status: int, headers: dict[str, str], body: bytes, send_body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if send_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[Hub]]:
    folder = tmp_path / "repository"
    folder.mkdir()
    for path in tiny_model_dir.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling.py").write_text("raise RuntimeError")
    handler = type("Handler", (Hub,), {"folder": folder, "fetched": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_model_is_fetched_once_with_its_code_and_without_pickles(
    hub: type[Hub], tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, weights = find("org/tiny")
    original = tiny_model_dir / "model.safetensors"
    assert (directory / "model.safetensors").read_bytes() == original.read_bytes()
    assert len(weights) > 20
    # The code is not run unless it is trusted; then nothing more is fetched.
    names = [path.name for path in tiny_model_dir.iterdir()]
    assert sorted(hub.fetched) == sorted([*names, "modeling.py"])
    hub.fetched.clear()
    trusting = ModelSettings(name="org/tiny", trust_remote_code=True)
    assert find_model(trusting, Checked(), load_registry()).directory == directory
    assert find("org/tiny")[0] == directory
    assert hub.fetched == []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find("org/tiny")[0] == directory
    with pytest.raises(UsageError, match="does not fit"):
        find_model(ModelSettings(name="org/tiny"), Checked("config"), load_registry())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert find("org/tiny")[0] == directory


@pytest.mark.parametrize("refused", ["config", "weights"])
def test_nothing_large_is_fetched_of_a_model_that_does_not_fit(
    hub: type[Hub], refused: str
) -> None:
    checked = Checked(refused)
    with pytest.raises(UsageError, match="does not fit"):
        find_model(ModelSettings(name="org/tiny"), checked, load_registry())
    assert hub.fetched == ["config.json"]
    found = sum(weight.name.endswith("q_proj.weight") for weight in checked.found)
    assert found == (2 if refused == "weights" else 0)
    (directory,) = checked.directories
    assert [path.name for path in directory.iterdir()] == ["config.json"]


def test_what_the_hub_refuses(hub: type[Hub]) -> None:
    with pytest.raises(UsageError, match=r"no model 'org/gone'.*hf auth login"):
        find("org/gone")
    with pytest.raises(UsageError, match=r"'org/gated' only to those who accepted"):
        find("org/gated")
    with pytest.raises(UsageError, match=r"'org/tiny' has no revision 'no-such-revision'"):
        find("org/tiny", revision="no-such-revision")
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"'org/tiny' has no model\.safetensors"):
        find("org/tiny")


def test_a_hub_that_is_down(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"the hub is out of reach \(ConnectError"):
        find("org/tiny")
