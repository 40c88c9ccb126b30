"""Finding the official files: in a folder, as one file, and on a hub that a local server plays."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from flowtune_cli import DataError
from flowtune_musique.download import download, locate, official_name

NAME = "musique_ans_v1.0_dev.jsonl"
HUB = {"repo": "someone/MuSiQue", "revision": "v1"}


class Hub(ThreadingHTTPServer):
    """Serves ``files`` (path -> bytes) of dataset repositories and remembers the requests."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.reply(body=False)

    def do_GET(self):
        self.reply(body=True)

    def reply(self, body):
        self.server.requests.append((self.command, self.path))
        data = self.server.files.get(self.path)
        if data is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("variant", "split"), [("ans", "dev"), ("full", "test")])
def test_official_names(variant, split):
    assert official_name(variant, split) == f"musique_{variant}_v1.0_{split}.jsonl"


def test_a_file_is_taken_whatever_its_name(tmp_path):
    (tmp_path / "mine.jsonl").touch()
    assert locate(tmp_path / "mine.jsonl", NAME, **HUB) == tmp_path / "mine.jsonl"


def test_a_folder_gives_the_official_file(tmp_path):
    (tmp_path / NAME).touch()
    assert locate(tmp_path, NAME, **HUB) == tmp_path / NAME


def test_a_folder_without_the_official_file_is_an_error_that_says_what_was_looked_for(tmp_path):
    (tmp_path / "musique_ans_v1.0_train.jsonl").touch()
    with pytest.raises(DataError) as caught:
        locate(tmp_path, NAME, **HUB)
    assert f"--data {tmp_path}: there is no {NAME} in this folder" in str(caught.value)
    assert "its .jsonl files: musique_ans_v1.0_train.jsonl." in str(caught.value)


def test_the_official_file_may_be_compressed(tmp_path):
    (tmp_path / f"{NAME}.gz").touch()
    assert locate(tmp_path, NAME, **HUB) == tmp_path / f"{NAME}.gz"
    (tmp_path / NAME).touch()
    assert locate(tmp_path, NAME, **HUB) == tmp_path / NAME


def test_a_place_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="nowhere: there is no such file or folder"):
        locate(tmp_path / "nowhere", NAME, **HUB)


def test_downloads_the_file_of_the_revision_once(hub, tmp_path):
    hub.files[f"/datasets/someone/MuSiQue/resolve/v1/{NAME}"] = b"the records\n"
    first = download(NAME, **HUB, endpoint=hub.endpoint, cache=tmp_path)
    assert first.name == NAME
    assert first.read_bytes() == b"the records\n"
    assert download(NAME, **HUB, endpoint=hub.endpoint, cache=tmp_path) == first
    assert [command for command, _ in hub.requests].count("GET") == 1


def test_what_was_downloaded_is_there_offline(hub, tmp_path, monkeypatch):
    hub.files[f"/datasets/someone/MuSiQue/resolve/v1/{NAME}"] = b"the records\n"
    first = download(NAME, **HUB, endpoint=hub.endpoint, cache=tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download(NAME, **HUB, endpoint=hub.endpoint, cache=tmp_path) == first


def test_a_file_that_the_dataset_does_not_have_is_an_error(hub, tmp_path):
    with pytest.raises(DataError) as caught:
        download(NAME, **HUB, endpoint=hub.endpoint, cache=tmp_path)
    message = str(caught.value)
    assert f"{NAME} cannot be downloaded from the dataset 'someone/MuSiQue'" in message
    assert "(revision 'v1')" in message
    assert "Entry Not Found" in message
    assert f"Pass --data with a folder that holds {NAME}" in message


def test_a_malformed_dataset_name_is_an_error(tmp_path):
    with pytest.raises(DataError, match="Repo id must be in the form"):
        download(NAME, repo="a/b/c", revision="main", endpoint="http://127.0.0.1:1", cache=tmp_path)


def test_offline_is_an_error_that_says_to_pass_data(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"cannot be downloaded .* Pass --data with a folder"):
        download(NAME, **HUB, cache=tmp_path)


def test_an_unreachable_hub_is_an_error_that_says_to_pass_data(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    endpoint = "http://127.0.0.1:1"  # nothing listens there
    with pytest.raises(DataError, match=f"at {endpoint}: .* Pass --data with a folder"):
        download(NAME, **HUB, endpoint=endpoint, cache=tmp_path)


def test_a_transfer_that_breaks_off_is_an_error(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    path = f"/datasets/someone/MuSiQue/resolve/v1/{NAME}"
    hub.files[path] = b"the records\n"

    def break_off(handler):
        handler.server.requests.append((handler.command, handler.path))
        handler.close_connection = True

    monkeypatch.setattr(HubHandler, "do_GET", break_off)
    with pytest.raises(DataError, match="Pass --data"):
        download(NAME, **HUB, endpoint=hub.endpoint, cache=tmp_path)
    assert ("GET", path) in hub.requests


def test_without_data_the_task_reads_the_dataset_that_is_set(hub, tmp_path, write, record):
    hub.files[f"/datasets/me/mine/resolve/old/{NAME}"] = write([record("4hop__1")]).read_bytes()
    code = (
        "from flowtune_musique.flow import MusiqueAnswerable as Task;"
        "task = Task(Task.Settings(hub_repo='me/mine', hub_revision='old'));"
        "print([example.id for example in task.examples(None, 'dev')])"
    )
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache")}
    environment["HF_HUB_OFFLINE"] = "0"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "['4hop__1']", done.stderr
