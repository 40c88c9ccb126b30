"""The examples depend on the settings alone, and the splits share nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli import UsageError
from flowtune_toyqa.flow import ToyQA
from flowtune_toyqa.names import ENDS, SPLITS, vocabulary
from flowtune_toyqa.settings import ToyQASettings


def digest(**settings: int) -> str:
    task = ToyQA(ToyQASettings(**settings))
    lines = [
        json.dumps([example.id, example.inputs, asdict(example.gold)], sort_keys=True)
        for split in SPLITS
        for example in task.examples(None, split)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def invented(split: str) -> set[str]:
    return {word for part in ENDS for word in vocabulary(part, split)}


@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(0, 10))
def test_the_same_settings_give_the_same_examples(seed, hops, distractors):
    settings = {"seed": seed, "hops": hops, "documents": hops + distractors}
    settings |= {"train_size": 3, "test_size": 3}
    assert digest(**settings) == digest(**settings)


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_they_do_in_another_process_too(hash_seed):
    code = (
        "import importlib.util as u, sys\n"
        "spec = u.spec_from_file_location('t', sys.argv[1])\n"
        "module = u.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "print(module.digest(seed=5, hops=3, documents=9))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, __file__],
        env={
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == digest(seed=5, hops=3, documents=9)


def test_every_setting_of_the_world_changes_it():
    settings = {"train_size": 3, "test_size": 3}
    made = [{}, {"seed": 1}, {"hops": 3}, {"documents": 7}]
    assert len({digest(**settings, **change) for change in made}) == len(made)


def test_a_smaller_split_is_the_beginning_of_a_larger_one(task):
    few, many = (list(task(train_size=n).examples(None, "train")) for n in (5, 9))
    assert few == many[:5]


@pytest.mark.parametrize("hops", range(2, 13))
def test_examples_of_every_number_of_hops(task, hops):
    for documents in (hops, hops + 2, 3 * hops):
        made = task(hops=hops, documents=documents, train_size=3)
        for example in made.examples(None, "train"):
            assert len(example.documents) == len(set(example.documents)) == documents
            assert len(example.gold.support) == hops
            assert example.gold.answer in example.documents[example.gold.support[-1]]
            assert json.loads(json.dumps(example.inputs)) == example.inputs


def test_the_splits_have_their_sizes_and_unique_ids(task):
    made = task()
    ids = {split: [e.id for e in made.examples(None, split)] for split in made.splits}
    assert {split: len(names) for split, names in ids.items()} == {"train": 400, "test": 200}
    assert len({*ids["train"], *ids["test"]}) == 600


@pytest.mark.parametrize(("split", "other"), [("train", "test"), ("test", "train")])
def test_no_invented_word_of_a_split_is_met_in_the_other(task, split, other):
    shown = " ".join(
        " ".join([example.question, *example.documents, example.gold.answer])
        for example in task(hops=4, train_size=100, test_size=100).examples(None, split)
    )
    words = set(re.findall(r"\w+", shown))
    assert words & invented(split)
    assert not words & invented(other)


def test_a_source_of_data_is_refused(task):
    with pytest.raises(UsageError, match=r"generates its questions.*questions\.jsonl"):
        task().examples(Path("questions.jsonl"), "train")


def test_an_unknown_split_is_refused(task):
    with pytest.raises(UsageError, match="no split 'dev'; it has: train, test"):
        task().examples(None, "dev")
