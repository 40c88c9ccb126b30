"""The plugin registers both tasks, and importing it costs no heavy library."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from pydantic import ValidationError

from flowtune_musique import plugin
from flowtune_musique.settings import MusiqueSettings


def test_registers_both_tasks():
    registered = []
    plugin.register_tasks(registered.append)
    assert [task.name for task in registered] == ["musique-answerable", "musique-full"]
    assert {task.gate for task in registered} == {"answer_f1"}


def test_registers_the_post_processors():
    registered = []
    plugin.register_postprocessors(registered.append)
    assert [processor.name for processor in registered] == ["grounded", "pairwise"]


def test_is_found_by_its_entry_point():
    (point,) = [p for p in entry_points(group="flowtune") if p.name == "musique"]
    assert point.value == "flowtune_musique.plugin"


def test_registering_imports_no_heavy_library():
    code = (
        "import sys; from flowtune_musique import plugin;"
        "plugin.register_tasks(lambda task: task());"
        "plugin.register_postprocessors(lambda processor: processor());"
        "print([m for m in ('torch', 'transformers', 'datasets', 'huggingface_hub', 'numpy')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "settings", [{"max_retrieval": 3}, {"max_retrievals": 0}, {"ranking": "bm25"}, {"credit": ""}]
)
def test_unknown_settings_and_values_are_refused(settings):
    with pytest.raises(ValidationError):
        MusiqueSettings(**settings)


def test_every_setting_says_what_it_means():
    assert all(field.description for field in MusiqueSettings.model_fields.values())
