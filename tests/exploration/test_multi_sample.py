"""Multiple samples: what decoding it asks for."""

from __future__ import annotations

from flowtune_cli.exploration import MultiSample
from flowtune_cli.flow.request import Decoding


def test_samples_beside_the_greedy_output() -> None:
    decoding = MultiSample(temperature=0.7, top_p=0.9).decoding(3)
    assert decoding == Decoding(groups=1, samples=3, temperature=0.7, top_p=0.9)
    assert decoding.outputs == 4
    assert MultiSample.name == "multi_sample"


def test_defaults_change_nothing() -> None:
    assert MultiSample().decoding(2) == Decoding(samples=2, temperature=1.0, top_p=1.0)
