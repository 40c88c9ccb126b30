"""Every kind of finding says what to do, and is in the tutorial."""

from __future__ import annotations

import re
from pathlib import Path

from flowtune_cli.cli import check
from flowtune_cli.runs import learning_warnings
from flowtune_cli.training.admission import differences, failures, learning
from support.markdown_blocks import REPOSITORY


def kinds(pattern: str, *files: Path) -> set[str]:
    return {kind for file in files for kind in re.findall(pattern, file.read_text())}


REASONS = kinds(r'Reason\(\s*"([a-z-]+)"', Path(learning_warnings.__file__))


def test_each_kind_is_in_the_tutorial() -> None:
    folder = Path(failures.__file__).parent
    found = kinds(r'Finding\(\s*"([a-z-]+)"', *folder.glob("*.py"), Path(check.__file__))
    found |= kinds(r'code(?:, severity)? = "([a-z-]+)"', *folder.glob("*.py")) | set(
        failures.CODES.values()
    )
    found |= set(differences.FACTS.values()) | {"request-differs", *REASONS}
    assert found >= {"no-judge", "prompt-cut", "limit", "rewards-differ", "cannot-be-played"}
    table = (REPOSITORY / "docs" / "write-a-plugin.md").read_text().partition("| finding |")[2]
    cells = [row.split("|")[1] for row in table.partition("\n\n")[0].splitlines() if "`" in row]
    assert {kind for cell in cells for kind in re.findall(r"`([a-z-]+)`", cell)} == found


def test_each_reason_says_what_to_do() -> None:
    with_advice = {"no-judge", "no-target"}
    assert set(learning.ADVICE) == REASONS - with_advice - {"failed", *learning.ELSEWHERE}
