"""Layers of settings, where each value is from, and what is said about wrong ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli import Factor, Preset, Rank, Template
from flowtune_cli.config.layers import Origin, Setting
from flowtune_cli.config.resolve import Resolved, resolve, restore
from flowtune_cli.config.settings import Settings
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.registry import Registry, load_registry
from support.installed_plugins import HOPQA, Site

Resolve = Callable[..., Resolved]
QUERY = "tasks.hop-qa.nodes.query"
TEXT = "tasks.plain.nodes.best.text"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(tmp_path)
    site = Site(tmp_path, monkeypatch)
    site.install("hop", HOPQA)
    return site


@pytest.fixture
def registry(site: Site) -> Registry:
    registry = load_registry()
    # What else is installed where the tests run is left out, which makes unknown tasks excusable.
    registry.left_out.clear()
    return registry


@pytest.fixture
def resolved(registry: Registry, tmp_path: Path) -> Resolve:
    """``resolved(toml text, *overrides, task=, environ=, **flags)``."""

    def call(
        text: str | None = None,
        *overrides: str,
        task: str | None = "hop-qa",
        environ: Mapping[str, str] | None = None,
        flags: Mapping[str, Any] | None = None,
    ) -> Resolved:
        if text is not None:
            (tmp_path / "flowtune.toml").write_text(text, encoding="utf-8")
        return resolve(
            None if task is None else registry.task(task),
            environ=environ or {},
            overrides=overrides,
            flags=flags,
            registry=registry,
        )

    return call


def test_without_anything_the_defaults_hold(resolved: Resolve) -> None:
    found = resolved(task=None)
    assert found.settings == Settings()
    assert set(found.origins.values()) == {Origin("default", "default")}
    assert "training.seed" in found.origins


def test_later_layers_win(resolved: Resolve) -> None:
    text = "[training]\nbatch_size = 16\n\nseed = 1\nlimit = 1\npasses = 1\n"
    environ = {"FLOWTUNE_TRAINING__SEED": "2", "FLOWTUNE_TRAINING__LIMIT": "2"}
    found = resolved(
        text,
        "training.limit=3",
        "training.save_every=3",
        environ=environ,
        flags={"training.save_every": 4, "training.seed": None},
    )
    training = found.settings.training
    assert training.batch_size == 16  # the task says 4
    assert (training.seed, training.limit, training.save_every) == (2, 3, 4)
    keys = set(type(training).model_fields) - {"evaluate"}  # a table
    origins = {key: str(found.origins[f"training.{key}"]) for key in keys}
    assert origins == {
        "batch_size": "flowtune.toml",
        "seed": "environment FLOWTUNE_TRAINING__SEED",
        "limit": "--set",
        "save_every": "--save-every",
        "passes": "flowtune.toml",
        "keep_checkpoints": "default",
        "max_failures": "default",
        "deviations": "default",
        "rollouts": "default",
        "max_steps": "default",
        "effect_timeout": "default",
        "effect_retries": "default",
        "rank_timeout": "default",
        "episode_timeout": "default",
    }


def test_the_tasks_preferences_come_before_the_file(resolved: Resolve) -> None:
    found = resolved()
    assert found.settings.training.batch_size == 4
    assert str(found.origins["training.batch_size"]) == "task hop-qa"
    assert resolved(task="plain").settings.training.batch_size == 8


def test_an_explicit_file_replaces_the_one_here(
    resolved: Resolve, registry: Registry, tmp_path: Path
) -> None:
    resolved("[training]\nseed = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("[training]\nlimit = 5\n")
    found = resolve(None, file=other, environ={}, registry=registry)
    assert (found.settings.training.seed, found.settings.training.limit) == (42, 5)
    assert str(found.origins["training.limit"]) == str(other)
    with pytest.raises(UsageError, match=r"the settings file .*none\.toml: cannot be read"):
        resolve(None, file=tmp_path / "none.toml", environ={}, registry=registry)


def test_typed_texts_stay_texts_where_a_text_is_wanted(resolved: Resolve) -> None:
    environ = {"FLOWTUNE_MODEL__REVISION": "1234567"}
    found = resolved(None, "model.name=2024", f"{QUERY}.prompt.prefill=7", environ=environ)
    assert found.settings.model.name == "2024"
    assert found.settings.model.revision == "1234567"
    assert found.make_task().node("query").prompt.prefill == "7"


def test_the_empty_text_unsets_what_may_be_unset(resolved: Resolve) -> None:
    found = resolved(
        '[model]\nrevision = "x"\n[tasks.hop-qa.nodes.query]\nreward = ""\n', "model.revision="
    )
    assert found.settings.model.revision is None
    assert found.make_task().node("query").reward is None
    with pytest.raises(UsageError, match=r"training\.seed should be"):
        resolved('[training]\nseed = ""\n')


def test_a_choice_with_options_is_replaced_as_a_whole(resolved: Resolve) -> None:
    assert resolved().settings.learning.optimizer == {"name": "cocob", "alpha": 10.0}
    given = '[learning]\noptimizer = {name = "cocob", eps = 1e-6}\n'
    found = resolved(given)
    assert found.settings.learning.optimizer == {"name": "cocob", "eps": 1e-6}
    assert found.origins["learning.optimizer"] == Origin("file", "flowtune.toml")
    found = resolved(given, "learning.optimizer=adam")
    assert found.settings.learning.optimizer == "adam"
    found = resolved(environ={"FLOWTUNE_LEARNING__OPTIMIZER": '{name = "adam", lr = 0.1}'})
    assert found.settings.learning.optimizer == {"name": "adam", "lr": 0.1}
    node = resolved("").make_task().node("query")
    assert node.exploration == {"name": "diverse_beam", "penalty": 2.0}
    node = resolved("", f"{QUERY}.exploration=multi_sample").make_task().node("query")
    assert node.exploration == "multi_sample"
    given = f'{QUERY}.exploration={{name = "diverse_beam", beams = 3}}'
    node = resolved("", given).make_task().node("query")
    assert node.exploration == {"name": "diverse_beam", "beams": 3}


def test_a_part_of_a_choice_cannot_be_set(resolved: Resolve) -> None:
    for key in ("learning.optimizer", f"{QUERY}.optimizer", f"{QUERY}.exploration"):
        said = f"'{key}.alpha' cannot be set by itself: set '{key}' as a whole"
        with pytest.raises(UsageError, match=re.escape(f"--set: {said}")):
            resolved(None, f"{key}.alpha=1")
        variable = "FLOWTUNE_" + f"{key}.alpha".replace(".", "__").replace("-", "_").upper()
        with pytest.raises(UsageError, match=re.escape(said)):
            resolved(None, environ={variable: "1"})


def test_nodes_have_optimizers_of_their_own(resolved: Resolve) -> None:
    text = "[tasks.hop-qa.nodes.query]\noptimizer = {eps = 1e-5}\n"
    query = resolved(text, f"{QUERY}.head_optimizer={{alpha=3}}").make_task().node("query")
    assert (query.optimizer, query.head_optimizer) == ({"eps": 1e-5}, {"alpha": 3})
    query = resolved(text, f"{QUERY}.optimizer=adam").make_task().node("query")
    assert query.optimizer == "adam"
    query = resolved(text, f"{QUERY}.optimizer=").make_task().node("query")
    assert query.optimizer is None
    with pytest.raises(UsageError) as error:
        resolved(
            text, "learning.optimizer={name = 'adam', lr = 0.1}", f"{QUERY}.optimizer={{epz=1}}"
        )
    assert str(error.value) == (
        f"--set: {QUERY}.optimizer cannot be used with optimizer 'adam': unknown option 'epz'. Did"
        " you mean 'eps'? Known: betas, eps, lr."
    )
    with pytest.raises(UsageError, match=r"^flowtune.toml: .* optimizer 'adam': .* 'alpha'"):
        resolved("[tasks.hop-qa.nodes.query]\noptimizer = {alpha = 1}\n", "learning.optimizer=adam")
    with pytest.raises(
        UsageError, match="cannot learn with 'adam', as its adapter learns with 'co"
    ):
        resolved("", f"{QUERY}.head_optimizer=adam")


def test_nodes_take_their_settings(resolved: Resolve) -> None:
    found = resolved(
        """
[tasks.hop-qa]
hops = 3
[tasks.hop-qa.nodes.query]
stop = ["\\n", "."]
weight = 2
prompt.user = "Say {question}"
[tasks.hop-qa.nodes.stop.prompt]
truncate = ["found"]
"""
    )
    task = found.make_task()
    assert task.settings.hops == 3
    query, stop = task.node("query"), task.node("stop")
    assert query.max_new_tokens == 60  # the task's default for three hops
    assert query.stop == ("\n", ".")
    assert query.weight == 2.0
    assert (query.prompt.user, query.prompt.system) == ("Say {question}", "Be brief.")
    assert (stop.prompt.user, stop.prompt.truncate) == ("Enough? {found}", ("found",))
    assert str(found.origins["tasks.hop-qa.hops"]) == "flowtune.toml"
    assert str(found.origins[f"{QUERY}.prompt.user"]) == "flowtune.toml"
    assert str(found.origins[f"{QUERY}.prompt.system"]) == "task hop-qa"
    assert str(found.origins["tasks.hop-qa.style"]) == "task hop-qa"
    shown = found.settings.tasks["hop-qa"]
    assert shown["hops"] == 3
    assert shown["nodes"]["query"]["stop"] == ["\n", "."]
    assert "name" not in shown["nodes"]["query"]


def test_variables_know_no_case_and_no_hyphens(resolved: Resolve) -> None:
    found = resolved(
        environ={
            "FLOWTUNE_TASKS__HOP_QA__HOPS": "5",
            "FLOWTUNE_TASKS__HOP_QA__NODES__QUERY__MAX_NEW_TOKENS": "7",
            "FLOWTUNE_TASKS__HOP_QA__NODES__QUERY__PROMPT__USER": "Go {question}",
        }
    )
    task = found.make_task()
    assert task.settings.hops == 5
    assert task.node("query").max_new_tokens == 7
    assert task.node("query").prompt.user == "Go {question}"
    assert str(found.origins["tasks.hop-qa.hops"]) == "environment FLOWTUNE_TASKS__HOP_QA__HOPS"


def test_every_task_made_has_nodes_of_its_own(resolved: Resolve) -> None:
    found = resolved()
    first, second = found.make_task(), found.make_task()
    assert first.nodes == second.nodes
    assert first.node("query") is not second.node("query")
    with pytest.raises(ValueError, match="without a task"):
        resolved(task=None).make_task()


def test_stored_settings_are_restored(resolved: Resolve, registry: Registry) -> None:
    found = resolved(
        '[model]\nname = "m"\n[tasks.hop-qa]\nhops = 4\n[tasks.plain.nodes.best]\nnegatives = 2\n',
        f"{QUERY}.exploration=multi_sample",
        f"{QUERY}.evaluator={{name = 'llm_judge', tie = 0.1}}",
        f"{QUERY}.reward=",
        "learning.clip=0.25",
    )
    stored = found.settings.model_dump(mode="json")
    again = restore(registry.task("hop-qa"), stored, "x", registry)
    assert again.make_task().nodes == found.make_task().nodes
    assert again.make_task().settings == found.make_task().settings
    assert again.settings.tasks == {"hop-qa": found.settings.tasks["hop-qa"]}
    assert again.settings.model_copy(update={"tasks": found.settings.tasks}) == found.settings
    assert again.origins["model.name"] == Origin("run", "run x")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainig.seed=1", "unknown section 'trainig'. Did you mean 'training'?"),
        ("training.sed=1", "unknown setting 'training.sed'. Did you mean 'training.seed'?"),
        ("learning.seed=1", "unknown setting 'learning.seed'. Did you mean 'training.seed'?"),
        ("training.seed=x", "training.seed should be a valid integer, not 'x'"),
        ("training.seed=true", "training.seed should be a valid integer, not True"),
        ("training.seed=1.0", "training.seed should be a valid integer, not 1.0"),
        ("training.seed.deeper=1", "'training.seed.deeper' cannot be set by itself"),
        ("training.limit=-1", "training.limit should be greater than or equal to 0, not -1"),
        ("model.dtype=int8", "model.dtype should be 'auto', 'float32', 'bfloat16' or 'float16'"),
        (
            "adapter.targets=q_proj",
            "adapter.targets should be 'auto' or 'all-linear' or a valid array, not 'q_proj'",
        ),
        ("adapter.targets=[]", "adapter.targets"),
        ("learning.optimizer=3.5.1", "unknown optimizer '3.5.1'"),
        (
            "learning.optimizer={lr = 1}",
            "learning.optimizer cannot be used: {'lr': 1} has no name: write {name = ",
        ),
        ("learning.optimizer=adm", "unknown optimizer 'adm'. Did you mean 'adam'?"),
        (
            "learning.optimizer={name='cocob', alfa=1}",
            "learning.optimizer cannot be used: unknown option 'alfa'. Did you mean 'alpha'?",
        ),
        (
            "learning.optimizer_options={lr=1}",
            "there is no setting 'learning.optimizer_options' any more: 'learning.optimizer' holds",
        ),
        (
            "learning.node_options.query.lr=1",
            "there is no setting 'learning.node_options' any more: 'tasks.NAME.nodes.NODE.",
        ),
        (
            "learning.calibration_options={}",
            "any more: 'tasks.NAME.nodes.NODE.head_optimizer' holds",
        ),
        (
            f"{QUERY}.explore=x",
            f"no setting '{QUERY}.explore' any more: it is called 'exploration'",
        ),
        (f"{QUERY}.explore_options.x=1", f"no setting '{QUERY}.explore_options' any more: 'explor"),
        ("tasks.hop-qa=1", "tasks.hop-qa should be a table, not 1"),
        ("tasks.hopqa.hops=1", "unknown task 'hopqa'. Did you mean 'hop-qa'?"),
        ("tasks.zzz.hops=1", "unknown task 'zzz'. Known: hop-qa, plain"),
        ("tasks.hop-qa.hop=1", "'tasks.hop-qa.hop'. Did you mean 'tasks.hop-qa.hops'?"),
        ("tasks.hop-qa.hops=0", "tasks.hop-qa.hops should be greater than or equal to 1, not 0"),
        ("tasks.hop-qa.style=even", "tasks.hop-qa.style should be 'plain' or 'odd', not 'even'"),
        ("tasks.plain.hops=1", "unknown setting 'tasks.plain.hops'"),
        ("tasks.plain.nodes.best.negatives=x", "best.negatives should be a valid integer"),
        (f"{TEXT}=[{{text='x', weigt=1.0}}]", f"{TEXT}.0.weigt is not a setting"),
        (
            f"{TEXT}=['y', {{text='x', prompt={{usr='x'}}}}]",
            f"{TEXT}.1.prompt.usr is not a setting",
        ),
        (f"{TEXT}=['y', {{text='x', weight='y'}}]", f"{TEXT}.1.weight should be a valid number"),
        (f"{TEXT}=[{{weight=1.0}}]", f"{TEXT}.0.text must be set"),
        ("tasks.hop-qa.nodes=1", "tasks.hop-qa.nodes should be a table, not 1"),
        ("tasks.hop-qa.nodes.qury.weight=1", f"'tasks.hop-qa.nodes.qury'. Did you mean '{QUERY}'?"),
        (f"{QUERY}=1", f"{QUERY} should be a table, not 1"),
        (f"{QUERY}.name=x", f"unknown setting '{QUERY}.name'"),
        (f"{QUERY}.wait=1", f"'{QUERY}.wait'. Did you mean '{QUERY}.weight'?"),
        (f"{QUERY}.weight=x", f"{QUERY}.weight should be a valid number, not 'x'"),
        (f"{QUERY}.learn=preference", f"{QUERY}.learn should be 'preferences', 'supervised' or"),
        (f"{QUERY}.stop=['a', 3]", f"{QUERY}.stop.1 should be a valid string, not 3"),
        (f"{QUERY}.prompt=hello", f"{QUERY}.prompt should be a table, not 'hello'"),
        (f"{QUERY}.prompt.usr=x", f"'{QUERY}.prompt.usr'. Did you mean '{QUERY}.prompt.user'?"),
        (f"{QUERY}.prompt.user=a {{b", f"{QUERY}.prompt is not a template: expected '}}'"),
        (f"{QUERY}.exploration=beam", "unknown exploration 'beam'. Known: diverse_beam, multi_sam"),
        (
            f"{QUERY}.exploration={{name='diverse_beam', penality=1}}",
            f"{QUERY}.exploration cannot be used: unknown option 'penality'. Did you mean 'penalt",
        ),
        (
            f"{QUERY}.exploration={{name='diverse_beam', beams='x'}}",
            f"{QUERY}.exploration cannot be used: beams should be a valid integer, not 'x'",
        ),
        (
            f"{QUERY}.exploration={{beams=3}}",
            "exploration cannot be used: {'beams': 3} has no name",
        ),
        ("run.trackers=['tensorbord']", "trackers cannot be used: unknown tracker 'tensorbord'"),
        (f"{QUERY}.evaluator=llm", "unknown evaluator 'llm'. Known: llm_judge"),
        (
            f"{QUERY}.evaluator={{name = 'llm_judge', tye = 0.1}}",
            "evaluator cannot be used: unknown option 'tye'. Did you mean 'tie'?",
        ),
        (
            f"{QUERY}.evaluator={{name = 'llm_judge', tie = true}}",
            "evaluator cannot be used: tie should be a valid number, not True",
        ),
        (
            f"{QUERY}.evaluator={{name = 'llm_judge', tie = 2}}",
            "evaluator cannot be used: tie should be from 0 to 1, not 2",
        ),
        (
            f"{QUERY}.evaluator={{name = 'llm_judge', prompt = 'x'}}",
            "evaluator cannot be used: prompt does not show {a} and {b}",
        ),
        (
            f"{QUERY}.evaluator={{name = 'llm_judge', prompt = {{usr = '{{a}}{{b}}'}}}}",
            "prompt.usr is not a setting",
        ),
        (f"{QUERY}.evaluator={{tie = 0.1}}", "evaluator cannot be used: {'tie': 0.1} has no name"),
        ("learning.beta=nan", "learning.beta should be finite, not nan"),
        ("learning.clip=inf", "learning.clip should be finite, not inf"),
        ("adapter.alpha=1" + "0" * 400, "adapter.alpha is too large a number"),
        (f"{QUERY}.weight=inf", f"{QUERY}.weight should be finite, not inf"),
        (
            "learning.optimizer={name = 'adam', lr = nan}",
            "learning.optimizer.lr should be finite, not nan",
        ),
        (
            "learning.optimizer={name = 'adam', betas = [0.9, inf]}",
            "learning.optimizer.betas.1 should be finite, not inf",
        ),
        (
            "learning.optimizer={name = 'adam', lr = true}",
            "learning.optimizer cannot be used: lr should be a valid number, not True",
        ),
        (
            f"{QUERY}.exploration={{name = 'multi_sample', temperature = nan}}",
            f"{QUERY}.exploration.temperature should be finite, not nan",
        ),
        (
            "tasks.hop-qa.nodes.stop.score=likelihood",
            "tasks.hop-qa.nodes.stop cannot be set so: node 'stop' judges by likelihood",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_origin(resolved: Resolve, override: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        resolved(None, override)
    assert str(error.value).startswith("--set: ")
    assert said in str(error.value)


def test_a_value_of_several_types_is_complained_about_as_the_one_that_it_is(
    resolved: Resolve,
) -> None:
    with pytest.raises(UsageError) as error:
        resolved(None, f"{TEXT}=['{{query}}', {{text='x', weigt=1.0}}]")
    assert str(error.value) == f"--set: {TEXT}.1.weigt is not a setting"


def test_factors_are_settings(resolved: Resolve) -> None:
    given = f"{TEXT}=['{{query}}', {{text='x', prompt={{user='a', chat=false}}, weight=2.0}}]"
    found = resolved(None, given, task="plain").make_task().node("best")
    assert isinstance(found, Rank)
    prompt = Template("a", chat=False)
    assert found.factors == (Factor("{query}"), Factor("x", prompt=prompt, weight=2.0))


def test_all_that_is_wrong_is_said_at_once(resolved: Resolve) -> None:
    text = (
        '[model]\nnam = "x"\n\n[training]\nseed = "x"\n[tasks.hop-qa.nodes.query]\nweight = "y"\n'
    )
    with pytest.raises(UsageError) as error:
        resolved(text, environ={"FLOWTUNE_MODEL__DTYP": "float32"})
    head, *lines = str(error.value).split("\n")
    assert head == "4 settings cannot be used:"
    assert sorted(re.sub(r": .*", "", line.strip()) for line in lines) == [
        "environment FLOWTUNE_MODEL__DTYP",
        *["flowtune.toml"] * 3,
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tasks = 1\n", "flowtune.toml: tasks should be a table, not 1"),
        (
            "[learning]\noptimizer = 3\n",
            "flowtune.toml: learning.optimizer should be a valid string or a table, not 3",
        ),
        ("model = 3\n", "flowtune.toml: model should be a table, not 3"),
        ("[tasks.hop-q]\n", "flowtune.toml: unknown task 'hop-q'. Did you mean 'hop-qa'?"),
        ("[tasks.hop-qa.nodes.quer]\n", "flowtune.toml: unknown setting 'tasks.hop-qa.nodes.qu"),
        ("[training]\n\nseed = [\n 1]\n", "flowtune.toml: training.seed should be"),
    ],
)
def test_what_is_wrong_with_tables(resolved: Resolve, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        resolved(text)


def test_empty_tables_set_nothing(resolved: Resolve) -> None:
    text = "[model]\n[tasks]\n[tasks.plain]\n[tasks.hop-qa.nodes]\n[tasks.hop-qa.nodes.query]\n"
    assert resolved(text).make_task().nodes == resolved("").make_task().nodes


DEFAULTS = HOPQA.replace('"training.batch_size": 4', '"training.batch_sise": 4')


def test_a_tasks_own_mistakes_name_the_task(site: Site) -> None:
    site.install("wrong", DEFAULTS.replace('"hop-qa"', '"wrong"').replace('"plain"', '"also"'))
    registry = load_registry()
    with pytest.raises(UsageError, match=r"^task wrong: unknown setting 'training.batch_sise'"):
        resolve(registry.task("wrong"), environ={}, registry=registry)
    resolve(registry.task("hop-qa"), environ={}, registry=registry)


def test_a_default_that_is_refused_names_its_place(site: Site) -> None:
    wrong = HOPQA.replace('"hop-qa"', '"wrong"').replace('"plain"', '"also"')
    assert "hops: int = Field(" in wrong
    field = (
        'model_config = {"validate_default": True}\n    many: list[list[int]] = [[1, "x"]]\n'
        "    hops: int = Field("
    )
    site.install("wrong", wrong.replace("hops: int = Field(", field))
    registry = load_registry()
    with pytest.raises(UsageError, match=r"^task wrong: .*1 should be a valid integer"):
        resolve(registry.task("wrong"), environ={}, registry=registry)


STRANGE = """
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, TypedDict
from pydantic import BaseModel, ConfigDict
from flowtune_cli import Generate, Task, Template, hookimpl

class Strange(BaseModel):
    model_config = ConfigDict(validate_default=True)
    path: Path = Path("here")
    needed: int

class Handle: ...

class Shape(TypedDict):
    sides: int

@dataclass(kw_only=True)
class Custom(Generate):
    call: Callable[..., Any] = print
    handle: Handle | None = None
    shape: Shape | None = None
    schema: int = 1
    model_config: str = "a name that pydantic uses itself"
    second: Template | None = None

class T(Task):
    name = "strange"
    Settings = Strange
    nodes = [Custom(name="n", prompt=Template("x"))]
    def examples(self, source, split): return []
    async def run(self, episode, example): return {}

@hookimpl
def register_tasks(register):
    register(T)
"""


def test_settings_that_no_file_can_hold(site: Site) -> None:
    site.install("strange", STRANGE)
    registry = load_registry()
    task = registry.task("strange")

    def call(*overrides: str, run: Any = task) -> Resolved:
        return resolve(run, environ={}, overrides=overrides, registry=registry)

    with pytest.raises(UsageError, match=r"^task strange: tasks.strange.needed must be set$"):
        call()
    needed = ["tasks.strange.needed=1"]
    found = call(*needed)
    assert found.make_task().settings.path == Path("here")
    assert "call" not in found.settings.tasks["strange"]["nodes"]["n"]
    found = call("tasks.strange.needed=1", "tasks.strange.path=7", "tasks.strange.nodes.n.stop=[]")
    assert found.make_task().settings.path == Path("7").absolute()
    found = call(*needed, "tasks.strange.nodes.n.schema=2", "tasks.strange.nodes.n.model_config=7")
    node = found.make_task().node("n")
    assert (node.schema, node.model_config) == (2, "7")
    with pytest.raises(UsageError, match=r"n.handle cannot be set: only Python has such values"):
        call("tasks.strange.needed=1", "tasks.strange.nodes.n.handle=1")
    found = call("tasks.strange.needed=1", "tasks.strange.nodes.n.second.user='hello'")
    assert found.make_task().node("n").second.user == "hello"
    # What another task still needs is no business of the one that is run.
    assert call("tasks.strange.path=x", run=registry.task("plain")).settings.tasks["strange"]
    with pytest.raises(UsageError, match=r"tasks\.strange\.needed should be"):
        call("tasks.strange.needed=x", run=registry.task("plain"))


@pytest.mark.parametrize("why", ["failed", "left out"])
def test_settings_of_a_task_whose_plugin_is_not_there_wait(
    site: Site, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    site.install("gone", "raise ImportError" if why == "failed" else HOPQA)
    if why == "left out":
        monkeypatch.setenv("FLOWTUNE_PLUGINS", "hop")
    registry = load_registry()
    registry.left_out = [name for name in registry.left_out if name == "gone"]

    def call(*overrides: str) -> Resolved:
        task = registry.task("plain")
        return resolve(task, environ={}, overrides=overrides, registry=registry)

    assert call("tasks.gone-task.x=1").settings.tasks["gone-task"] == {"x": 1}
    with pytest.raises(UsageError, match="Did you mean 'hop-qa'"):
        call("tasks.hop-q.x=1")


def test_a_preset_lies_between_the_task_and_the_file(resolved: Resolve) -> None:
    found = resolved(
        "[training]\nsave_every = 9\n", task="hop-qa", flags={"preset": "small", "model.name": "x"}
    )
    task = found.make_task()
    assert found.settings.preset == "small"
    assert found.settings.training.batch_size == 4
    assert found.settings.training.save_every == 9
    assert found.settings.learning.optimizer == {"name": "adam", "lr": 0.01}
    assert task.settings.style == "odd"
    assert task.node("query").optimizer == {"lr": 0.001}
    origins = {key: found.origins[key] for key in ("preset", "learning.optimizer")}
    assert origins["preset"] == Origin("command line", "--preset")
    assert origins["learning.optimizer"] == Origin("preset", "preset small")
    assert str(found.origins[f"{QUERY}.optimizer"]) == "preset small"
    assert found.stored["settings"]["preset"] == "small"
    assert found.stored["origins"]["preset"] == {"layer": "command line", "text": "--preset"}


def test_where_a_preset_is_chosen(resolved: Resolve) -> None:
    assert resolved('preset = "large"\n').settings.model.quantization == "nf4"
    found = resolved('preset = "large"\n', environ={"FLOWTUNE_PRESET": "small"})
    assert found.settings.training.save_every == 7
    assert found.settings.model.quantization == "none"
    assert str(found.origins["preset"]) == "environment FLOWTUNE_PRESET"
    found = resolved(environ={"FLOWTUNE_PRESET": "small"}, flags={"preset": "none"})
    assert (found.settings.preset, found.settings.training.save_every) == ("none", 100)


def test_a_model_may_have_a_default_preset(resolved: Resolve, registry: Registry) -> None:
    for given in (
        {"text": '[model]\nname = "little"\n'},
        {"flags": {"model.name": "smaller"}},
        {"environ": {"FLOWTUNE_MODEL__NAME": "little"}},
    ):
        found = resolved(**{"text": "", **given})
        assert found.settings.training.save_every == 7, given
        assert found.settings.preset == "small"
        assert str(found.origins["preset"]).startswith("default with ")
        found = resolved(
            **{"text": "", **given, "flags": {"preset": "none", **given.get("flags", {})}}
        )
        assert found.settings.training.save_every == 100, given
    found = resolved("", "model.name=other")
    assert (found.settings.preset, found.settings.training.save_every) == (None, 100)
    hop = registry.task("hop-qa")
    inherited = Setting("large", Origin("run", "run x"))
    found = resolve(
        hop, environ={}, flags={"model.name": "little"}, registry=registry, preset=inherited
    )
    assert found.settings.preset == "large"
    gone = Setting("gone", Origin("run", "run x"))
    found = resolve(hop, environ={}, flags={"model.name": "little"}, registry=registry, preset=gone)
    assert found.settings.preset is None


def test_a_preset_that_does_not_exist(resolved: Resolve) -> None:
    with pytest.raises(UsageError) as error:
        resolved('preset = "smal"\n')
    assert str(error.value) == (
        "flowtune.toml: unknown preset of task 'hop-qa' 'smal'. Did you mean 'small'?"
        " Known: large, none, small."
    )
    with pytest.raises(
        UsageError, match=r"flowtune\.toml: unknown preset of task 'hop-qa' '\[1\]'"
    ):
        resolved("preset = [1]\n")
    with pytest.raises(UsageError, match="unknown preset of task 'plain' 'small'"):
        resolved("", task="plain", flags={"preset": "small"})
    # A command without a task leaves it to those that have one.
    assert resolved('preset = "smal"\n', task=None).settings.preset == "smal"


def test_a_preset_that_is_wrong_is_named(site: Site) -> None:
    wrong = HOPQA.replace('"hop-qa"', '"wrong"').replace('"plain"\n', '"also"\n')
    site.install("wrong", wrong.replace('"nodes.query.optimizer"', '"nodes.qury.optimizer"'))
    registry = load_registry()
    task = registry.task("wrong")
    with pytest.raises(
        UsageError, match=r"^preset small: unknown setting 'tasks\.wrong\.nodes\.qury'"
    ):
        resolve(task, environ={}, flags={"preset": "small"}, registry=registry)
    resolve(task, environ={}, registry=registry)


def test_a_preset_that_does_not_fit_other_settings_can_be_left_out(resolved: Resolve) -> None:
    small = {"preset": "small"}
    with pytest.raises(UsageError) as error:
        resolved("", "learning.optimizer=cocob", flags=small)
    assert str(error.value) == (
        f"preset small: {QUERY}.optimizer cannot be used with optimizer 'cocob': unknown option"
        " 'lr'. Known: alpha, eps.\n  '--preset none' leaves the preset out"
    )
    resolved("", "learning.optimizer=cocob", f"{QUERY}.optimizer=", flags=small)


def test_a_preset_cannot_be_made_that_chooses_itself() -> None:
    with pytest.raises(ValueError, match=r"preset 'x' cannot set model\.name"):
        Preset("x", "", {"model.name": "y"})
    with pytest.raises(ValueError, match="a preset cannot be called 'none'"):
        Preset("none", "", {})


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        ("{name = 'adam', lr = -1}", "lr should be greater than or equal to 0, not -1"),
        ("{name = 'adam', lr = '0.1'}", "lr should be a valid number, not '0.1'"),
        ("{name = 'adam', betas = [0.9, 1.0]}", "betas.1 should be less than 1, not 1.0"),
        ("{name = 'adam', betas = [0.9]}", "betas.1 must be set"),
        ("{name = 'cocob', alpha = 0}", "alpha should be greater than 0, not 0"),
        ("{name = 'cocob', eps = true}", "eps should be a valid number, not True"),
    ],
)
def test_values_of_optimizers_options(resolved: Resolve, optimizer: str, said: str) -> None:
    for key in ("learning.optimizer", f"{QUERY}.optimizer", f"{QUERY}.head_optimizer"):
        shared = "learning.optimizer=adam" if "adam" in optimizer else "learning.optimizer=cocob"
        with pytest.raises(UsageError) as error:
            resolved("", shared, f"{key}={optimizer}")
        assert str(error.value).startswith(f"--set: {key} ")
        assert str(error.value).endswith(f": {said}")
    assert resolved("", "learning.optimizer={name = 'adam', lr = 1, betas = [0, 0.5]}")


OPTIMIZERS = """
from flowtune_cli import hookimpl

def typed(parameters, lr: float = 1.0, unknown: "Missing" = 1, **more): ...

def untyped(parameters, lr=1.0): ...

@hookimpl
def register_optimizers(register):
    register("typed", typed)
    register("untyped", untyped)
    import torch
    register("adamw", torch.optim.AdamW)
"""


def test_options_of_a_plugin_s_optimizers(site: Site) -> None:
    site.install("optimizers", OPTIMIZERS)
    registry = load_registry()

    def call(optimizer: str) -> Resolved:
        override = f"learning.optimizer={optimizer}"
        return resolve(None, environ={}, overrides=[override], registry=registry)

    call("{name = 'typed', lr = 2, unknown = 'x', further = 'y'}")
    call("{name = 'untyped', lr = 'any'}")
    call("{name = 'adamw', lr = 0.1, betas = [0.9, 0.99], weight_decay = 0.01, amsgrad = true}")
    with pytest.raises(UsageError, match="lr should be a valid number, not 'x'"):
        call("{name = 'typed', lr = 'x'}")


def test_sections_that_cannot_be_made_are_a_complaint(
    resolved: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowtune_cli.config.checker import Checker

    def refuse(self: Checker, model: Any, key: Any, values: Any) -> None:
        self.complain(("training", "seed"), "does not go with training.limit")

    monkeypatch.setattr(Checker, "make", refuse)
    with pytest.raises(UsageError, match=r"training\.seed does not go with training\.limit"):
        resolved("")


def test_a_section_in_a_section_is_set_key_by_key_or_as_a_table(
    resolved: Resolve, tmp_path: Path
) -> None:
    text = '[training]\nevaluate = {every = 100, split = "dev", data = "held/out.jsonl"}\n'
    found = resolved(
        text,
        "training.evaluate.limit=7",
        environ={"FLOWTUNE_TRAINING__EVALUATE__PATIENCE": "3"},
    )
    evaluate = found.settings.training.evaluate
    assert (evaluate.every, evaluate.split, evaluate.limit, evaluate.patience) == (100, "dev", 7, 3)
    assert evaluate.data is not None
    assert evaluate.data.is_absolute()
    assert str(found.origins["training.evaluate.every"]) == "flowtune.toml"
    assert str(found.origins["training.evaluate.limit"]) == "--set"
    with pytest.raises(UsageError, match=r"unknown setting 'training.evaluate.evry'. Did you mean"):
        resolved("", "training.evaluate.evry=1")
    with pytest.raises(UsageError, match=r"training.evaluate.every should be greater than or"):
        resolved("", "training.evaluate.every=-1")
