"""Hop matching: the right share of each number of hops, and both records of a pair or none."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowtune_cli import DataError
from flowtune_musique.flow import MusiqueFull
from flowtune_musique.hops import SHARES, kept


def training_ids(folder):
    """The official ids that MuSiQue-Full is trained on."""
    task = MusiqueFull()
    return [e.record_id for e in task.training_examples(task.examples(folder, "train"), "train")]


@pytest.mark.parametrize(("prefix", "share"), [("2hop", 0.25), ("3hop1", 0.5), ("4hop2", 1.0)])
def test_keeps_the_share_of_each_number_of_hops(prefix, share):
    ids = [f"{prefix}__{number}_{number + 1}" for number in range(4000)]
    assert sum(map(kept, ids)) / len(ids) == pytest.approx(share, abs=0.03)


@given(st.sampled_from(sorted(SHARES)), st.text(min_size=1))
def test_is_decided_by_the_whole_digest_of_the_official_id(prefix, rest):
    name = f"{prefix}__{rest}".encode("utf-8", "replace").decode()
    whole = int(hashlib.sha256(name.encode()).hexdigest(), 16) / 2**256
    assert kept(name) == (whole < SHARES[prefix])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(numbers=st.lists(st.integers(0, 999), min_size=1, max_size=8, unique=True), data=st.data())
def test_both_records_of_any_pair_stay_or_go_wherever_they_stand(record, numbers, data):
    names = [f"{data.draw(st.sampled_from('234'))}hop__{number}" for number in numbers]
    order = data.draw(st.permutations(names * 2))
    with tempfile.TemporaryDirectory() as folder:
        lines = [
            json.dumps(record(name, marker=str(position), documents=2, support=()))
            for position, name in enumerate(order)
        ]
        path = Path(folder, "musique_full_v1.0_train.jsonl")
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        thinned = training_ids(Path(folder))
    assert thinned == [name for name in order if name in set(thinned)]
    assert {name for name in names if name.startswith("4")} <= set(thinned)
    assert set(Counter(thinned).values()) <= {2}


def test_both_records_of_a_pair_stay_or_go(write, record, tmp_path):
    pairs = [
        record(f"2hop__{number}", marker=marker, answerable=not marker)
        for marker in ("", "!")
        for number in range(100)
    ]
    write(pairs, "musique_full_v1.0_train.jsonl")
    counts = Counter(training_ids(tmp_path))
    assert set(counts.values()) == {2}
    assert 10 < len(counts) < 45


def test_an_id_without_its_number_of_hops_is_an_error():
    with pytest.raises(DataError, match=r"'question-7' does not begin.*Set match_hops = false"):
        kept("question-7")


def test_the_official_training_pairs_stay_or_go_together(real_data):
    every = Counter(example.record_id for example in MusiqueFull().examples(real_data, "train"))
    thinned = Counter(training_ids(real_data))
    assert 0 < len(thinned) < len(every)
    assert all(count == every[name] for name, count in thinned.items())
    assert {name for name in every if name.startswith("4hop")} <= set(thinned)
