"""What counts as another setting than a run's, and what becomes of it."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.cli import options
from flowtune_cli.cli.run_overrides import RunOverrides, find_run
from flowtune_cli.cli.stored_settings import stored_settings, to_store
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.registry import Registry, load_registry
from flowtune_cli.runs.directory import RunDirectory
from support.installed_plugins import Site

Begin = Callable[..., RunDirectory]
QUERY = "tasks.hop-qa.nodes.query"


@pytest.fixture
def registry(site: Site) -> Registry:
    return load_registry()


@pytest.fixture
def begin(registry: Registry) -> Begin:
    """``begin("training.seed=1", config=)``: a run that was begun with these settings."""

    def call(*overrides: str, config: Path | None = None, origins: Any = None) -> RunDirectory:
        task = registry.task("hop-qa")
        resolved = options.settings(registry, task, config=config, overrides=overrides)
        resolved = replace(resolved, origins={**resolved.origins, **(origins or {})})
        stored = to_store(resolved, config, None, {})
        return RunDirectory.create(Path("runs"), task="hop-qa", model="m", settings=stored)

    return call


@pytest.fixture
def now(registry: Registry) -> Callable[..., RunOverrides]:
    def call(
        run: RunDirectory,
        *overrides: str,
        config: Path | None = None,
        flags: Mapping[str, Any] | None = None,
    ) -> RunOverrides:
        task = registry.task("hop-qa")
        return RunOverrides(registry, task, run, config=config, overrides=overrides, flags=flags)

    return call


Now = Callable[..., RunOverrides]


def keys(settings: RunOverrides) -> Sequence[str]:
    return [difference.key for difference in settings.differences]


def toml(text: str, name: str = "flowtune.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def test_nothing_set_is_no_difference_whatever_the_run_was_given(begin: Begin, now: Now) -> None:
    run = begin("training.seed=1", f"{QUERY}.prompt.system=Be long.", "run.directory=runs")
    settings = now(run)
    assert keys(settings) == []
    resolved = settings.resumed()
    assert resolved.settings.training.seed == 1
    assert resolved.make_task().node("query").prompt.system == "Be long."
    assert resolved.settings.model_dump(mode="json") == stored_settings(run)["settings"]


def test_a_file_that_is_as_it_was_is_no_difference(begin: Begin, now: Now) -> None:
    toml('[learning]\nbeta = 0.3\noptimizer = "cocob"\n[tasks.hop-qa]\nhops = 3\n')
    run = begin("learning.beta=0.7", "learning.optimizer=adam", "tasks.hop-qa.hops=4")
    assert keys(now(run)) == []
    assert now(run).resumed().settings.learning.beta == 0.7
    same_again = now(run, "learning.beta=0.7")
    assert keys(same_again) == []


def test_a_dtype_left_to_choose_is_what_the_run_began_with(begin: Begin, now: Now) -> None:
    toml('[model]\ndtype = "auto"\n')
    run = begin("model.dtype=bfloat16")
    settings = now(run, "model.dtype=auto")
    assert keys(settings) == []
    assert settings.resumed().settings.model.dtype == "bfloat16"
    assert keys(now(run, "model.dtype=float32")) == ["model.dtype"]


def test_layers_left_to_find_are_those_the_run_began_with(begin: Begin, now: Now) -> None:
    toml('[adapter]\ntargets = "auto"\n')
    run = begin('adapter.targets=["k_proj"]')
    settings = now(run, "adapter.targets=auto")
    assert keys(settings) == []
    assert settings.resumed().settings.adapter.targets == ["k_proj"]
    assert keys(now(run, "adapter.targets=all-linear")) == ["adapter.targets"]


def test_a_file_that_has_changed_is_a_difference(begin: Begin, now: Now) -> None:
    toml("[learning]\nbeta = 0.3\n")
    run = begin()
    toml("[learning]\nbeta = 0.4\nclip = 2.0\n")
    with pytest.raises(UsageError) as error:
        now(run).resumed()
    lines = str(error.value).splitlines()
    assert lines[1:] == [
        "  learning.beta = 0.3 in the run, and 0.4 now (flowtune.toml)",
        "  learning.clip = 1.0 in the run, and 2.0 now (flowtune.toml)",
    ]


def test_the_file_that_the_run_was_begun_with_is_looked_at(begin: Begin, now: Now) -> None:
    toml("[learning]\nbeta = 0.3\n")
    mine = toml("[learning]\nclip = 2.0\n", "mine.toml")
    run = begin(config=mine)
    assert keys(now(run)) == []
    mine.unlink()
    assert keys(now(run)) == []
    assert keys(now(run, config=Path("flowtune.toml"))) == ["learning.beta"]


def test_the_environment_counts_less_than_the_command_line_did(
    begin: Begin, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWTUNE_LEARNING__BETA", "0.3")
    given = begin("learning.beta=0.7")
    plain = begin()
    assert keys(now(given)) == []
    assert keys(now(plain)) == []
    monkeypatch.setenv("FLOWTUNE_LEARNING__BETA", "0.4")
    assert keys(now(given)) == []
    assert keys(now(plain)) == ["learning.beta"]


def test_what_changes_no_result_may_be_changed(begin: Begin, now: Now) -> None:
    run = begin("engine.in_flight=3")
    changes = [
        "engine.in_flight=5",
        "model.device=cuda",
        "training.keep_checkpoints=7",
        "training.max_failures=0.5",
        "run.directory=elsewhere",
        "run.trackers=['tensorboard']",
        "tasks.plain.nodes.best.negatives=9",
    ]
    resolved = now(run, *changes).resumed()
    assert resolved.settings.engine.in_flight == 5
    assert resolved.settings.model.device == "cuda"
    assert resolved.settings.training.max_failures == 0.5
    assert resolved.settings.run.directory == Path("runs")
    assert resolved.settings.run.trackers == ["tensorboard"]
    assert str(resolved.origins["training.keep_checkpoints"]) == "--set"
    assert str(resolved.origins["training.save_every"]) == "default"


@pytest.mark.parametrize(
    ("before", "now_limit", "allowed"),
    [
        (["training.limit=10"], 20, True),
        (["training.limit=10"], 0, True),
        (["training.limit=10"], 9, False),
        ([], 10, False),
        (["training.limit=10", "training.passes=2"], 20, True),
    ],
)
def test_the_limit_may_grow(
    begin: Begin, now: Now, before: list[str], now_limit: int, allowed: bool
) -> None:
    settings = now(begin(*before), flags={"training.limit": now_limit})
    if allowed:
        assert settings.resumed().settings.training.limit == now_limit
    else:
        with pytest.raises(UsageError, match=r"training\.limit = "):
            settings.resumed()


@pytest.mark.parametrize(("episodes", "allowed"), [(10, True), (11, False)])
def test_the_limit_grows_in_the_first_pass_alone(
    begin: Begin, now: Now, episodes: int, allowed: bool
) -> None:
    run = begin("training.limit=10", "training.passes=2")
    run.change_settings({**run.settings, "data": {"examples": 20}})
    run.update(episodes=episodes)
    settings = now(run, "training.limit=12")
    if allowed:
        assert settings.resumed().settings.training.limit == 12
    else:
        with pytest.raises(UsageError, match=r"training\.limit in the first pass"):
            settings.resumed()


@pytest.mark.parametrize(("passes", "allowed"), [(1, False), (3, True)])
def test_passes_may_grow(begin: Begin, now: Now, passes: int, allowed: bool) -> None:
    settings = now(begin("training.passes=2"), f"training.passes={passes}")
    if allowed:
        assert settings.resumed().settings.training.passes == passes
    else:
        with pytest.raises(UsageError, match=r"training\.passes = 2 in the run, and 1 now"):
            settings.resumed()


def test_a_new_run_takes_the_settings_of_the_nodes_that_it_has(
    begin: Begin, registry: Registry
) -> None:
    run = begin(f"{QUERY}.weight=2.0", f"{QUERY}.max_new_tokens=7")
    stored = copy.deepcopy(run.settings)
    nodes = stored["settings"]["tasks"]["hop-qa"]["nodes"]
    nodes["old"] = nodes.pop("query")
    nodes["gone"] = {"kind": "of another type"}
    stored["origins"] = {
        key.replace("nodes.query", "nodes.old"): origin for key, origin in stored["origins"].items()
    }
    stored["origins"]["tasks.hop-qa.nodes.gone.kind"] = {"layer": "file", "text": "x"}
    run.change_settings(stored)
    task = registry.task("hop-qa")
    with pytest.raises(UsageError):
        RunOverrides(registry, task, run)
    continued = RunOverrides(registry, task, run, renamed={"query": "old"}).continued()
    query = continued.make_task().node("query")
    assert (query.weight, query.max_new_tokens) == (2.0, 7)  # type: ignore[attr-defined]
    origin = continued.origins[f"{QUERY}.weight"]
    assert str(origin) == "--set (run hop-qa-001)"
    assert not any("gone" in key or ".old." in key for key in continued.origins)
    for renamed, message in (
        ({"query": "odl"}, "--rename odl=query, the run's: unknown node 'odl'."),
        ({"qery": "old"}, "--rename old=qery, the task's: unknown node 'qery'."),
    ):
        with pytest.raises(UsageError, match=message):
            RunOverrides(registry, task, run, renamed=renamed)


def test_what_was_learned_can_be_used_with_other_settings_but_not_adapters(
    begin: Begin, now: Now
) -> None:
    run = begin("learning.beta=0.7", "model.name=m", "training.seed=1")
    trained = now(run, f"{QUERY}.exploration=multi_sample", "learning.optimizer=adam").trained()
    query = trained.make_task().node("query")
    assert query.exploration == "multi_sample"
    assert (trained.settings.learning.optimizer, trained.settings.learning.beta) == ("adam", 0.7)
    assert trained.settings.training.seed == 1
    with pytest.raises(UsageError, match=r'model\.name = "m" in the run, and "other" now'):
        now(run, "model.name=other").trained()
    with pytest.raises(UsageError, match=r"adapter\.rank = 8 in the run, and 4 now"):
        now(run, "adapter.rank=4").continued()


def test_a_run_that_goes_on_from_another_inherits_and_trains_as_set_now(
    begin: Begin, now: Now
) -> None:
    toml("[learning]\nclip = 2.0\nbeta = 0.5\n[training]\nlimit = 6\n")
    source = begin("learning.beta=0.7", "training.seed=1", "tasks.hop-qa.hops=4", "adapter.rank=4")
    continued = now(source, "training.batch_size=3").continued()
    assert continued.settings.adapter.rank == 4
    assert continued.settings.learning.beta == 0.7
    assert continued.settings.tasks["hop-qa"]["hops"] == 4
    assert (continued.settings.training.seed, continued.settings.training.limit) == (42, 6)
    assert str(continued.origins["learning.beta"]) == "--set (run hop-qa-001)"
    assert str(continued.origins["learning.clip"]) == "flowtune.toml (run hop-qa-001)"
    assert str(continued.origins["adapter.alpha"]) == "default"
    assert str(continued.origins["training.batch_size"]) == "--set"

    new = begin(origins=continued.origins)
    new.change_settings(
        {**stored_settings(new), "settings": continued.settings.model_dump(mode="json")}
    )
    assert keys(now(new)) == [], "the same file as before changes nothing"


def test_a_run_does_not_say_whose_code_is_trusted(begin: Begin, now: Now) -> None:
    run = begin("model.trust_remote_code=true")
    for resolved in (now(run).resumed(), now(run).trained(), now(run).continued()):
        assert resolved.settings.model.trust_remote_code is False
    trusting = now(run, "model.trust_remote_code=true")
    assert trusting.resumed().settings.model.trust_remote_code is True


def test_runs_that_are_not_of_this_kind(begin: Begin, now: Now, registry: Registry) -> None:
    other = RunDirectory.create(Path("runs"), "o", task="hop-qa", model="m", settings={"x": 1})
    with pytest.raises(UsageError, match=r"settings\.json lacks some of: settings, origins"):
        now(other)
    with pytest.raises(UsageError, match="is of task 'hop-qa', not plain"):
        RunOverrides(registry, registry.task("plain"), begin())


def test_a_run_is_found_by_name_where_the_settings_say(begin: Begin, registry: Registry) -> None:
    run = begin()
    os.rename("runs", "moved")
    found = find_run(registry, run.path.name, None, ["run.directory=moved"])
    assert found.path == Path("moved", run.path.name).absolute()
    with pytest.raises(UsageError, match=r"unknown run 'hop-qa-002'\. Did you mean 'hop-qa-001'"):
        find_run(registry, "hop-qa-002", None, ["run.directory=moved"])


def test_the_preset_of_a_run_holds(begin: Begin, now: Now) -> None:
    run = begin("model.name=little")
    assert stored_settings(run)["settings"]["preset"] == "small"
    for resolved in (now(run).resumed(), now(run).trained(), now(run).continued()):
        assert resolved.settings.preset == "small"
        assert resolved.settings.training.save_every == 7
        assert resolved.settings.learning.optimizer == {"name": "adam", "lr": 0.01}
    assert keys(now(run)) == []
    assert keys(now(run, flags={"preset": "small"})) == []
    without = now(begin("model.name=other"))
    assert without.resumed().settings.preset is None
    assert without.continued().settings.training.save_every == 100


def test_another_preset_is_a_difference(begin: Begin, now: Now) -> None:
    run = begin("learning.optimizer=adam")
    with pytest.raises(UsageError) as error:
        now(run, flags={"preset": "small"}).resumed()
    _, *lines = str(error.value).splitlines()
    assert lines == [
        "  training.save_every = 100 in the run, and 7 now (preset small)",
        '  tasks.hop-qa.style = "plain" in the run, and "odd" now (preset small)',
        '  tasks.hop-qa.nodes.query.optimizer = "" in the run, and {lr = 0.001} now (preset small)',
    ], "what the command line set in the run overrides a preset"
    assert now(run, flags={"preset": "none"}).resumed().settings.preset == "none"


def test_a_presets_settings_count_as_the_choice_of_the_preset_does(begin: Begin, now: Now) -> None:
    toml('preset = "small"\n')
    plain = begin()
    assert stored_settings(plain)["settings"]["training"]["save_every"] == 7
    toml('preset = "large"\n')
    assert keys(now(plain)) == ["preset", "model.quantization"]
    toml('preset = "none"\n')
    assert keys(now(plain)) == ["preset"]


def test_a_node_that_could_not_learn_learns_again_where_it_can(begin: Begin, now: Now) -> None:
    run = begin(f"{QUERY}.adapter=none")
    assert keys(now(run)) == []
    assert now(run).continued().make_task().node("query").learn == "nothing"
    settings = now(run, f"{QUERY}.adapter=own")
    # To play it, what was never trained stays the base model.
    assert settings.trained().make_task().node("query").learn == "nothing"
    assert keys(settings) == [f"{QUERY}.adapter"]
    assert settings.continued().make_task().node("query").learn == "preferences"
    settings = now(run, f"{QUERY}.adapter=own", f"{QUERY}.learn=supervised")
    assert settings.continued().make_task().node("query").learn == "supervised"
