"""Diverse beam: what decoding it asks for."""

from __future__ import annotations

import pytest

from flowtune_cli.exploration import DiverseBeam
from flowtune_cli.flow.request import Decoding


@pytest.mark.parametrize(
    ("beams", "alternatives", "groups"), [(0, 0, 1), (0, 1, 2), (0, 3, 4), (16, 3, 16), (2, 3, 2)]
)
def test_groups(beams: int, alternatives: int, groups: int) -> None:
    decoding = DiverseBeam(penalty=2.5, beams=beams).decoding(alternatives)
    assert decoding == Decoding(groups=groups, diversity_penalty=2.5)
    assert decoding.outputs == groups


def test_the_default_pays_for_diversity() -> None:
    assert DiverseBeam().decoding(1) == Decoding(groups=2, diversity_penalty=5.0)
    assert DiverseBeam.name == "diverse_beam"
