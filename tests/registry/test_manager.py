"""Plugins that work, fail, clash and lie: what the registry makes of each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flowtune_cli import DiverseBeam, Generate, LLMJudge, token_f1
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.registry import Problem, Registry, load_registry
from support.installed_plugins import HOPQA, MODEL, Site

IMPORTS = "from flowtune_cli import *\nfrom flowtune_cli import hookimpl\n"
REWARD = (
    IMPORTS
    + """
def half(answer):
    return 0.5

@hookimpl
def register_rewards(register):
    register(half)
"""
)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def problems_of(registry: Registry, plugin: str) -> list[Problem]:
    registry.load_all()
    return [problem for problem in registry.problems if problem.plugin.name == plugin]


def test_builtin_things_come_through_the_same_door(site: Site) -> None:
    registry = load_registry()
    assert registry.node_type("generate") is Generate
    assert registry.exploration("diverse_beam") is DiverseBeam
    assert registry.reward("token_f1") is token_f1
    assert isinstance(registry.make_evaluator("llm_judge"), LLMJudge)
    assert registry.entries("exploration")["diverse_beam"].distribution == "flowtune"
    assert registry.problems == []


def test_a_plugin_is_found_by_its_metadata(site: Site) -> None:
    site.install("hop", HOPQA, version="2.5")
    registry = load_registry()
    entry = registry.entries("task")["hop-qa"]
    assert registry.task("hop-qa") is entry.thing
    assert (entry.kind, entry.plugin, entry.distribution) == ("task", "hop", "hop-dist")
    plugin = next(p for p in registry.plugins if p.name == "hop")
    assert plugin.version == "2.5"
    assert {e.name for e in registry.brought_by(plugin)} == {"hop-qa", "plain"}


def test_a_class_can_be_a_plugin(site: Site) -> None:
    source = REWARD.replace("\n@hookimpl\ndef register_rewards(register):\n    register(half)", "")
    source += """
class Plugin:
    @hookimpl
    def register_rewards(self, register):
        register(half)
"""
    site.install("classy", source, target=":Plugin")
    assert load_registry().reward("half")("x") == 0.5


@pytest.mark.parametrize("failure", ["import nowhere_to_be_found", "raise SystemExit(3)", "1 / 0"])
def test_a_failing_import_disturbs_nobody_and_explains_missing_names(
    site: Site, failure: str
) -> None:
    site.install("broken", failure)
    site.install("good", REWARD)
    registry = load_registry()
    assert registry.reward("half")("x") == 0.5
    [problem] = problems_of(registry, "broken")
    assert problem.plugin.distribution == "broken-dist"
    assert problem.plugin.version == "1.0"
    assert failure.split()[-1].rstrip("(3)")[:7] in problem.traceback
    with pytest.raises(UsageError, match=r"plugin that failed: 'broken' \(broken-dist 1.0\)"):
        registry.task("hopqa")


def test_a_failing_hook_keeps_the_plugins_other_things(site: Site) -> None:
    source = REWARD + "\n@hookimpl\ndef register_tasks(register):\n    raise KeyError('lost')\n"
    site.install("half_broken", source)
    site.install("hop", HOPQA)
    registry = load_registry()
    assert registry.task("plain").name == "plain"
    assert registry.reward("half")
    [problem] = problems_of(registry, "half_broken")
    assert "register_tasks failed: KeyError: 'lost'" in problem.error
    assert "register_tasks" in problem.traceback
    with pytest.raises(UsageError, match="half_broken"):
        registry.task("nothing-like-it")
    with pytest.raises(UsageError) as unrelated:
        registry.exploration("nothing-like-it")
    assert "half_broken" not in str(unrelated.value)


def test_hooks_are_called_when_first_needed(site: Site) -> None:
    source = REWARD + "\n@hookimpl\ndef register_optimizers(register):\n    raise ValueError\n"
    site.install("late", source)
    registry = load_registry()
    assert registry.commands == {}
    assert registry.reward("half")
    assert registry.problems == []
    registry.load_all()
    assert registry.problems


def test_one_name_from_two_plugins_is_an_error_for_that_name_alone(site: Site) -> None:
    site.install("one", REWARD)
    site.install("two", REWARD.replace("0.5", "0.25"))
    registry = load_registry()
    with pytest.raises(UsageError) as error:
        registry.reward("half")
    assert "'one' (one-dist 1.0)" in str(error.value)
    assert "'two' (two-dist 1.0)" in str(error.value)
    assert registry.reward("token_f1") is token_f1
    assert "half" not in registry.entries("reward")
    assert registry.contested("reward") == {"half"}
    assert len(problems_of(registry, "one")) == len(problems_of(registry, "two")) == 1


def test_a_name_registered_twice_by_one_plugin(site: Site) -> None:
    site.install("double", REWARD + "    register(half)\n")
    with pytest.raises(UsageError, match="registered twice by plugin 'double'"):
        load_registry().reward("half")


def test_a_misspelt_hook_is_a_problem_with_a_suggestion(site: Site) -> None:
    site.install("typo", REWARD + "\n@hookimpl\ndef register_task(register):\n    pass\n")
    registry = load_registry()
    [problem] = problems_of(registry, "typo")
    assert "unknown hook 'register_task'. Did you mean 'register_tasks'?" in problem.error
    assert registry.reward("half")


def test_a_hook_with_other_arguments_is_a_problem(site: Site) -> None:
    site.install("other", IMPORTS + "@hookimpl\ndef register_tasks(registry):\n    pass\n")
    [problem] = problems_of(load_registry(), "other")
    assert "registry" in problem.error


def test_a_module_without_hooks_is_a_problem(site: Site) -> None:
    site.install("unmarked", "def register_tasks(register):\n    pass\n")
    [problem] = problems_of(load_registry(), "unmarked")
    assert "hookimpl" in problem.error


TASK = """
class T(Task):
    name = "t"
    nodes = []
    def examples(self, source, split): return []
    async def run(self, episode, example): return {}
"""

SOURCE = """
class M(ModelSource):
    name = "m"
    directory = None
    def is_ready(self): return False
    def fetch(self, *, verify=False): ...
"""


@pytest.mark.parametrize(
    ("hook", "code", "said"),
    [
        ("tasks", "register('x')", "not a subclass of Task"),
        ("tasks", "register(Task)", "does not define examples, run"),
        ("tasks", f"{TASK}\ndel T.name\nregister(T)", "task T needs a name"),
        ("tasks", f"{TASK}\nT.name = 'a.b'\nregister(T)", "it has 'a.b'"),
        ("tasks", f"{TASK}\nT.name = 'a__b'\nregister(T)", "it has 'a__b'"),
        ("tasks", f"{TASK}\nT.nodes = ['x']\nregister(T)", "must be a list of nodes"),
        (
            "tasks",
            f"{TASK}\nT.nodes = [Generate(name='n', prompt=Template(''))] * 2\nregister(T)",
            "two nodes named 'n'",
        ),
        (
            "tasks",
            f"{TASK}\nT.nodes = [Generate(name=n, prompt=Template('')) for n in 'nN']\nregister(T)",
            "two nodes named 'n', if upper and lower case are one",
        ),
        ("tasks", f"{TASK}\nT.presets = ['x']\nregister(T)", "must be a list of presets"),
        (
            "tasks",
            f"{TASK}\nT.presets = [Preset('a', '', dict())] * 2\nregister(T)",
            "two presets named 'a'",
        ),
        (
            "tasks",
            f"{TASK}\nT.presets = [Preset(n, '', dict(), models=['m']) for n in 'ab']\nregister(T)",
            "two presets for the model 'm'",
        ),
        ("tasks", f"{TASK}\nT.Settings = dict\nregister(T)", "must be a pydantic model"),
        (
            "tasks",
            f"{TASK}\nT.run = lambda self, episode, example: dict()\nregister(T)",
            "task 't': run must be an async function",
        ),
        (
            "tasks",
            f"{TASK}\nimport pydantic\nT.Settings = pydantic.create_model('S', nodes=(int, 1))"
            "\nregister(T)",
            "may not have a field 'nodes'",
        ),
        ("node_types", "register(Node)", "does not define prompt_text, respond, target_data"),
        (
            "node_types",
            "class N(Generate):\n    kind = 'my kind'\nregister(N)",
            "it has 'my kind'",
        ),
        ("explorations", "register(Generate)", "not a subclass of Exploration"),
        (
            "explorations",
            "class E(Exploration):\n    def decoding(self, alternatives): ...\nregister(E)",
            "exploration E needs a name",
        ),
        ("rewards", "register(3)", "a reward is a function"),
        ("rewards", "register(lambda answer: 1)", "it has '<lambda>'"),
        (
            "rewards",
            "class J:\n    name = 'j'\n    def compare(self): ...\nregister(J)",
            "needs a method 'async def compare'",
        ),
        (
            "rewards",
            "class J:\n    name = 'j'\n    def __init__(self, model): ...\n"
            "    async def compare(self): ...\nregister(J)",
            "cannot be made without 'model'",
        ),
        ("models", "register('small')", "not an object of a subclass of ModelSource"),
        ("models", "register(ModelSource)", "not an object of a subclass of ModelSource"),
        ("models", "class M(ModelSource): ...\nregister(M())", "directory, fetch, is_ready"),
        ("models", f"{SOURCE}\ndel M.name\nregister(M())", "it has None"),
        ("models", f"{SOURCE}\nM.name = 'org/m'\nregister(M())", "it has 'org/m'"),
        ("models", f"{SOURCE}\nM.name = 'm.gguf'\nregister(M())", "it has 'm.gguf'"),
        ("models", f"{SOURCE}\nM.summary = None\nregister(M())", "model 'm': summary must be"),
        ("optimizers", "register('sgd', 3)", "must be a function"),
        ("commands", "register('', print)", "needs a name"),
        ("commands", "register(print)", "register_commands failed: TypeError"),
    ],
)
def test_what_is_refused(site: Site, hook: str, code: str, said: str) -> None:
    body = "\n    ".join(code.splitlines())
    site.install("bad", f"{IMPORTS}@hookimpl\ndef register_{hook}(register):\n    {body}\n")
    [problem] = problems_of(load_registry(), "bad")
    assert said in problem.error


def test_a_refused_thing_leaves_those_after_it(site: Site) -> None:
    site.install("mixed", REWARD.replace("register(half)", "register(3)\n    register(half)"))
    registry = load_registry()
    assert registry.reward("half")
    assert len(problems_of(registry, "mixed")) == 1


def test_the_environment_narrows_what_is_loaded(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("hop", HOPQA)
    site.install("good", REWARD)
    monkeypatch.setenv("FLOWTUNE_PLUGINS", " hop ,")
    registry = load_registry()
    assert registry.task("plain")
    assert registry.node_type("generate")
    with pytest.raises(UsageError, match=r"FLOWTUNE_PLUGINS leaves out: .*good"):
        registry.reward("half")
    monkeypatch.setenv("FLOWTUNE_PLUGINS", "")
    assert [plugin.name for plugin in load_registry().plugins] == ["builtin"]
    monkeypatch.setenv("FLOWTUNE_PLUGINS", "hopp")
    with pytest.raises(UsageError, match=r"unknown plugin 'hopp'\. Did you mean 'hop'"):
        load_registry()
    monkeypatch.delenv("FLOWTUNE_PLUGINS")
    assert {"builtin", "good", "hop"} <= {plugin.name for plugin in load_registry().plugins}


def test_models_are_objects_known_by_name(site: Site, tmp_path: Path) -> None:
    site.install("models", MODEL.format(directory=tmp_path))
    registry = load_registry()
    small = registry.model("small")
    assert small.directory == tmp_path
    assert registry.entries("model")["small"].plugin == "models"
    with pytest.raises(UsageError, match="flowtune models fetch small"):
        small.prepare()
    (tmp_path / "config.json").write_text("{}")
    assert small.prepare() == tmp_path
    with pytest.raises(UsageError, match=r"unknown model 'smal'\. Did you mean 'small'"):
        registry.model("smal")
    site.install("again", MODEL.format(directory=tmp_path))
    with pytest.raises(UsageError, match="model 'small' comes from more than one plugin"):
        load_registry().model("small")


def test_a_models_name_may_have_dots(site: Site, tmp_path: Path) -> None:
    site.install("models", MODEL.format(directory=tmp_path).replace('"small"', '"small-1.5b"'))
    registry = load_registry()
    assert registry.model("small-1.5b").summary == "a small model"
    assert problems_of(registry, "models") == []


def test_an_unknown_name_gets_a_suggestion(site: Site) -> None:
    with pytest.raises(UsageError, match=r"'diverse_bean'. Did you mean 'diverse_beam'\?"):
        load_registry().exploration("diverse_bean")


def test_loading_and_asking_imports_no_torch(site: Site) -> None:
    site.install("hop", HOPQA)
    code = (
        "import json, sys; from flowtune_cli.registry import load_registry\n"
        "r = load_registry(); r.task('hop-qa'); r.exploration('diverse_beam'); r.commands\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=site.environ(), capture_output=True, check=True
    )
    assert not {"torch", "transformers", "textual"} & set(json.loads(done.stdout))
