"""Programs that return nothing."""

from __future__ import annotations

from typing import Any

from flowtune_cli.flow.deviation import Trace
from flowtune_cli.flow.episode import Episode, Failure
from flowtune_cli.programs.task import ProgramTask
from flowtune_cli.training.admission.finding import Finding
from flowtune_cli.training.admission.results import result_findings
from support.fake_engine import EXAMPLE, FlowTask

from . import broken_flows as flows


class Returning(ProgramTask):
    name = "returning"


def of(*results: Any) -> list[Finding]:
    traces = []
    for result in results:
        episode = Episode(EXAMPLE, {})
        episode.result = {"result": result}
        traces.append(Trace(EXAMPLE, episode))
    return list(result_findings(Returning(), traces))


def test_a_program_that_returns_nothing() -> None:
    [finding] = of(None, None)
    assert (finding.code, finding.severity, finding.count) == ("no-result", "warning", 2)
    assert "the program returned nothing (None) at each of 2 examples" in finding.message
    assert len(of("")) == 1


def test_a_program_that_returns_something() -> None:
    assert of(None, "x") == []
    assert of(0) == []
    assert of(False) == []


def test_what_failed_or_is_no_program() -> None:
    failed = Episode(EXAMPLE, {})
    failed.failure = Failure("E", "E")
    assert list(result_findings(Returning(), [Trace(EXAMPLE, failed)])) == []
    assert list(result_findings(FlowTask([], flows.healthy), [])) == []
