"""``flowtune train --from`` with other nodes than the run had, and runs that are extended."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.runs.directory import RunDirectory
from support.installed_plugins import Site
from support.letters_task import LETTERS
from support.runs_compared import learned, rows
from support.upstream import serving

Run = Callable[..., Any]
FILE = "adapter_model.safetensors"
OTHER = LETTERS.replace('"write"', '"author"').replace(
    "    nodes = [\n",
    '    nodes = [\n        Generate(name="added", prompt=Template("{question}"), reward="sum"),\n',
)


def change_task(site: Site, source: str) -> None:
    """As if the plugin's file had been edited."""
    [file] = site.path.glob("letters_module_*.py")
    file.write_text(source)
    sys.modules.pop(file.stem, None)


def weights(run: str, node: str, episodes: int) -> bytes:
    return Path(f"runs/{run}/checkpoints/{episodes:07d}/adapters/{node}/{FILE}").read_bytes()


def test_what_fits_is_taken_and_said(letters: Site, run: Run) -> None:
    assert run("train", "letters", "--limit", "2", "--name", "a").code == 0
    change_task(letters, OTHER)
    begun = run("train", "letters", "--limit", "2", "--from", "a", "--name", "b")
    assert begun.code == 0, begun.err
    for said in (
        "node 'added' has no adapter in the run: it begins anew",
        "node 'draft' goes on with its adapter (",
        "node 'author' has no adapter in the run: it begins anew",
        "left behind, as the task has no such nodes: write",
    ):
        assert said in begun.err
    named = ("--rename", "write=author")
    expected = run("train", "letters", "--limit", "2", "--from", "a", *named, "--dry-run")
    assert expected.code == 0, expected.err
    assert "node 'author' (there 'write') goes on with its adapter (" in expected.err
    begun = run("train", "letters", "--limit", "2", "--from", "a", *named, "--name", "c")
    assert begun.code == 0, begun.err
    assert "node 'author' (there 'write') goes on with its adapter (" in begun.err
    assert "and its optimizer state" in begun.err
    assert "left behind" not in begun.err
    stored = json.loads(Path("runs/c/settings.json").read_text())
    assert stored["renamed"] == {"author": "write"}
    assert weights("c", "author", 2) != weights("b", "author", 2)
    assert run("train", "--resume", "c", "--limit", "3").code == 0
    assert run("play", "letters", "--run", "c", "--json").code == 0


def test_a_node_that_shares_now_takes_what_the_other_learned(letters: Site, run: Run) -> None:
    assert run("train", "letters", "--limit", "2", "--name", "a").code == 0
    shares = ("--set", "tasks.letters.nodes.write.share=draft")
    begun = run("train", "letters", "--limit", "2", "--from", "a", *shares, "--name", "b")
    assert begun.code == 0, begun.err
    assert "node 'write' uses the adapter of 'draft'" in begun.err
    end = Path("runs/b/checkpoints/0000002/adapters")
    names = {path.name for path in end.iterdir()}
    assert {"draft", "check"} <= names
    assert "write" not in names
    assert json.loads((end / "draft/flowtune.json").read_text())["shared"] == {"write": {}}
    assert run("play", "letters", "--run", "b").code == 0
    exported = run("export", "b", "--adapters", "out")
    assert exported.code == 0, exported.err
    assert "write=" in exported.out
    assert run("inspect", "b", "--json").code in (0, 2)
    # And back: what it shared is then its own to begin with.
    own = ("--set", "tasks.letters.nodes.write.share=")
    begun = run("train", "letters", "--limit", "1", "--from", "b", *own, "--name", "c")
    assert begun.code == 0, begun.err
    assert "node 'write' goes on with its adapter (" in begun.err


def test_a_node_that_plays_the_base_model_is_told(letters: Site, run: Run) -> None:
    plain = ("--set", "tasks.letters.nodes.draft.adapter=none")
    done = run("train", "letters", "--limit", "2", "--name", "a", *plain)
    assert done.code == 0, done.err
    assert "node 'draft' learns nothing: it plays the base model (adapter = 'none')" in done.err
    assert not Path("runs/a/checkpoints/0000002/adapters/draft").exists()
    learns = ("--set", "tasks.letters.nodes.draft.learn=preferences")
    refused = run("train", "letters", "--limit", "2", *plain, *learns)
    assert refused.code == 2
    assert "tasks.letters.nodes.draft.learn is 'preferences', and it plays the base" in refused.err
    shared = ("--set", "tasks.letters.nodes.write.share=draft")
    refused = run("train", "letters", "--limit", "2", *plain, *shared)
    assert refused.code == 2
    assert "--set: tasks.letters.nodes.write.share is 'draft', which has no adapter" in refused.err


def test_an_optimizer_of_its_own_is_refused_with_its_place(letters: Site, run: Run) -> None:
    write = "tasks.letters.nodes.write"
    shares = ("--set", f"{write}.share=draft", "--set", f"{write}.optimizer=adam")
    refused = run("train", "letters", "--limit", "1", *shares)
    assert refused.code == 2
    assert f"--set: {write}.optimizer cannot be used: node 'write' shares the ad" in refused.err
    # What fits the owner's optimizer is no mistake.
    own = (*shares[:2], "--set", "tasks.letters.nodes.draft.optimizer=adam")
    own = (*own, "--set", write + ".head_optimizer={lr = 0.1}")
    assert run("config", "letters", *own).code == 0


def test_an_endpoint_plays_a_node_and_its_key_is_nowhere(
    letters: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as upstream:
        far = f'{{url = "{upstream.url}", name = "big", key = "BIG_KEY", price = {{input = 1.0,'
        plays = ("--set", f"tasks.letters.nodes.write.model={far} output = 2.0}}}}")
        refused = run("train", "letters", "--limit", "2", "--name", "a", *plays)
        assert refused.code == 2
        assert "node 'write': the environment variable BIG_KEY is not set" in refused.err
        assert not upstream.asked
        monkeypatch.setenv("BIG_KEY", "top-secret")
        done = run("train", "letters", "--limit", "2", "--name", "a", *plays)
        assert done.code == 0, done.err
        assert "node 'write' learns nothing: another model plays it (big)" in done.err
        asked = len(upstream.asked)
        assert asked >= 2
        spent = f"{asked} requests, {5 * asked} input and {2 * asked} output tokens"
        assert f"node 'write' asked big: {spent}, cost {9e-6 * asked:.6g}" in done.err
        of_all = f"of other servers {spent}, cost {9e-6 * asked:.6g}"
        assert of_all in done.err
        reported = run("report", "a", "--out", "a.html")
        assert reported.code == 0, reported.err
        assert of_all in Path("a.html").read_text()
        assert RunDirectory(Path("runs/a")).info.usage.endpoints.requests == asked
        played = run("play", "letters", "--run", "a")
        assert played.code == 0, played.err
        assert "effect node write(" in played.out
        assert '"cost": 9e-06' in played.out
        shown = run("export", "a", "--episodes", "episodes.jsonl")
        assert shown.code == 0
        episode = json.loads(Path("episodes.jsonl").read_text().splitlines()[0])
        assert episode["effects"][0]["result"]["cost"] == 9e-06
        assert run("train", "--resume", "a", "--limit", "3").code == 0
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert any(b"BIG_KEY" in path.read_bytes() for path in files)
    assert not any(b"top-secret" in path.read_bytes() for path in files)


def test_a_run_that_grows_is_one_that_was_so_from_the_start(letters: Site, run: Run) -> None:
    ends = ("--set", "training.save_every=2")
    whole = ("--set", "training.limit=4", "--set", "training.passes=2")
    assert run("train", "letters", "--name", "whole", *ends, *whole).code == 0
    assert run("train", "letters", "--name", "a", *ends, "--limit", "2").code == 0
    assert run("train", "--resume", "a", "--set", "training.limit=4").code == 0
    done = run("train", "--resume", "a", "--set", "training.passes=2")
    assert done.code == 0, done.err
    assert learned(Path("runs/a")) == learned(Path("runs/whole"))
    assert rows(Path("runs/a")) == rows(Path("runs/whole"))
    refused = run("train", "--resume", "a", "--set", "training.limit=8")
    assert refused.code == 2
    assert "and so may training.limit in the first pass" in refused.err
    assert run("train", "--resume", "a", "--set", "training.passes=1").code == 2


def test_what_may_not_change_is_told_before_anything_is_loaded(letters: Site, run: Run) -> None:
    run("train", "letters", "--limit", "2", "--name", "a")
    code = (
        "import sys; from flowtune_cli.cli.main import main;"
        " code = main(['train', '--resume', 'a', '--set', 'training.limit=1']);"
        " print(code, sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=letters.environ(),
    )
    assert done.stdout.strip() == "2 []", done.stderr
    assert "training.limit = 2 in the run, and 1 now" in done.stderr
