"""The page: what it shows, that it needs nothing else, and that data stays data."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.report.page import render
from flowtune_cli.report.summary import RunSummary, summarize_run
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.store import Store
from report.stored_runs import make_run, preference_batch, sums_run
from support.evaluated_runs import evaluated_run
from support.random_batches import Sums, question_of

HOSTILE = (
    "</td></style></script><script>alert(1)</script><img src=x onerror=alert(2)>"
    "\" onload='x' ${7*7} {{ 7*7 }} {% raw %} $\\frac$ & &lt; ]]> \u202e\x00"
)
ALLOWED = (
    "html head meta title style body main header h1 h2 h3 p span ul li a section article table"
    " thead tbody tr th td br b strong code dl dt dd div figure figcaption details summary ins"
    " del footer"
)


class Parsed(HTMLParser):
    """Elements and texts of a page; whatever stands in a plot is left out."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append(" " if tag in ("td", "th", "dd") else "")
        if tag not in ("meta", "br", "line", "use", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("use", "path"):
            return
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


def page(*figures: RunSummary) -> str:
    return render(figures, ["flowtune", "report", "run name"])


@pytest.fixture
def sums(tmp_path: Path) -> RunSummary:
    return summarize_run(sums_run(tmp_path))


def test_it_shows_the_figures(sums: RunSummary) -> None:
    text = Parsed(page(sums)).text
    [draw] = [node for node in sums.nodes if node.node == "draw"]
    assert draw.mean_margin is not None
    assert draw.win_rate is not None
    row = f"draw {draw.steps} {draw.preferences} {draw.ties} {draw.mean_margin:.3f}"
    assert f"{row} {draw.win_rate:.0%} of {draw.better + draw.worse}" in text
    assert "high 0.700" in text  # after the last of eight batches
    assert "6 draw – 12 – draw 18 draw –" in text
    assert "'run name'" in text


def test_words_are_marked_by_more_than_colour(tmp_path: Path) -> None:
    record = preference_batch([("the big river", "the small river")])
    made = page(summarize_run(make_run(tmp_path, [record])))
    assert "<p>the <ins>big</ins> river</p>" in made
    assert "<p>the <del>small</del> river</p>" in made
    assert re.search(r"ins \{[^}]*text-decoration: underline", made)
    assert re.search(r"del \{[^}]*text-decoration: line-through", made)
    assert "✓ chosen (alternative)" in made


def test_a_page_needs_nothing_but_itself(sums: RunSummary) -> None:
    made = page(sums, replace(sums, info=replace(sums.info, name="other")))
    parsed = Parsed(made)
    for tag, attributes in parsed.elements:
        assert tag not in ("script", "link", "img", "iframe", "object", "base", "form"), tag
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", made)
    policy = next(a["content"] for _, a in parsed.elements if a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    identifiers = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(set(identifiers)) == len(identifiers)
    for scheme in ("prefers-color-scheme: dark", "@media print"):
        assert scheme in made


def test_whatever_data_says_stays_text(tmp_path: Path) -> None:
    record = preference_batch(
        [(HOSTILE, "plain"), ("plain", HOSTILE), (HOSTILE, HOSTILE + " more")],
        node=HOSTILE,
        prompt=HOSTILE,
        question=HOSTILE,
        metric=HOSTILE,
    )
    run = make_run(tmp_path, [record], task=HOSTILE, model=HOSTILE)
    figures = summarize_run(run)
    settings = {
        "settings": {HOSTILE: {HOSTILE: HOSTILE}},
        "origins": {f"{HOSTILE}.{HOSTILE}": {"layer": HOSTILE, "text": HOSTILE, "run": HOSTILE}},
        "data": {"path": HOSTILE, "split": HOSTILE, "examples": 7, "examples_sha256": HOSTILE},
        "from": HOSTILE,
    }
    info: dict[str, Any] = {"versions": {HOSTILE: HOSTILE}, "resume": HOSTILE, "name": HOSTILE}
    figures = replace(
        figures,
        settings=settings,
        problem=HOSTILE,
        info=replace(figures.info, state=HOSTILE, created=HOSTILE, **info),
        seconds={HOSTILE: 1.0},
    )
    second = replace(figures, info=replace(figures.info, name="b"))
    made = render([figures, second], [HOSTILE])
    outside = re.sub(r"<svg.*?</svg>", "", made, flags=re.DOTALL)
    parsed = Parsed(outside)
    assert {tag for tag, _ in parsed.elements} <= set(ALLOWED.split())
    assert not any(name.startswith("on") for _, a in parsed.elements for name in a)
    assert parsed.open == []
    # Nothing of it is in a plot, and nothing was read as a template.
    assert "alert" not in "".join(re.findall(r"<svg.*?</svg>", made, flags=re.DOTALL))
    assert "{{ 7*7 }}" in parsed.text
    assert parsed.text.count("<script>alert(1)</script>") > 20


def test_the_digest_of_the_data(tmp_path: Path) -> None:
    figures = summarize_run(sums_run(tmp_path))
    figures = replace(figures, settings={"settings": {}, "data": {"examples_sha256": "0123abcd"}})
    assert "SHA-256 0123abcd" in " ".join(Parsed(page(figures)).text.split())


def test_tags_and_the_note_are_at_the_top(tmp_path: Path) -> None:
    run = sums_run(tmp_path)
    assert "tags:" not in page(summarize_run(run))
    run.change_info(lambda info: {"tags": ["good", "paper"], "note": "<b> of Friday"})
    shown = page(summarize_run(run))
    assert "tags: good, paper</p>" in shown
    assert "<p>&lt;b&gt; of Friday</p>" in shown


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "new", task="t", model="m", settings={"settings": {}})
    text = Parsed(page(summarize_run(run))).text
    assert "Nothing has been stored yet" in text
    assert "flowtune train --resume" in text


def test_a_reward_that_was_never_defined_and_an_empty_output(tmp_path: Path) -> None:
    record = preference_batch([("", "a b")], metric="never")
    metrics = {"never": replace(record.metrics["never"], window=None, overall=None)}
    made = page(summarize_run(make_run(tmp_path, [replace(record, metrics=metrics)])))
    assert "Never defined." in made
    assert "(nothing)" in made


def test_several_runs_are_compared(tmp_path: Path) -> None:
    runs = [summarize_run(sums_run(tmp_path, n, f"of-{n}")) for n in (3, 6)]
    made = page(*runs)
    text = Parsed(made).text
    assert "run task model state episodes high preferences" in text
    assert "of-3 sums none interrupted 9 0.200" in text
    assert "of-6 sums none interrupted 18 0.500" in text
    assert 'href="#run-1"' in made
    assert "not of the same examples: some have played more episodes. flowtune eval" in text


def test_runs_of_other_data_are_told_and_of_another_order_are_not(sums: RunSummary) -> None:
    data = {"path": "/d", "split": "train", "examples": 8, "available": 8}

    def told(**other: Any) -> str:
        runs = [
            replace(sums, settings={"settings": {}, "data": {**data, **more}})
            for more in ({"examples_sha256": "1"}, {"examples_sha256": "2", **other})
        ]
        return Parsed(page(*runs)).text.partition("not of the same examples: ")[2]

    assert told() == ""
    for other in ({"path": "/e"}, {"split": "dev"}, {"available": 9}):
        assert told(**other).startswith("the runs train on different data.")


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [summarize_run(sums_run(tmp_path / place, 2)) for place in "ab"]
    made = page(*runs)
    assert f"<h1>{tmp_path}/a/run <" in made
    assert f"<h1>{tmp_path}/b/run <" in made


def test_settings_that_were_set_come_before_the_rest(sums: RunSummary) -> None:
    settings = {
        "settings": {
            "training": {"seed": 7, "limit": 0},
            "model": {"revision": None},
            "learning": {"options": {"lr": 0.1}},
        },
        "origins": {
            "training.seed": {"layer": "command line", "text": "--seed", "run": "a"},
            "training.limit": {"layer": "task", "text": "task sums"},
            "learning.options": {"layer": "file", "text": "flowtune.toml"},
            "model.revision": {"layer": "default", "text": "default"},
        },
    }
    text = Parsed(page(replace(sums, settings=settings))).text
    set_, _, left = text.partition("2 settings at the defaults")
    assert "training.seed 7 --seed (run a)" in set_
    assert 'learning.options {"lr": 0.1} flowtune.toml' in set_
    assert "model.revision null default" in left
    assert "training.limit 0 task sums" in left


def test_nodes_that_learned_nothing_are_named_with_the_reason(tmp_path: Path) -> None:
    run = sums_run(tmp_path)
    with Store(run.store_path, question_of) as store:
        store.write_task(Sums.nodes, "<gate>")
    text = Parsed(render([summarize_run(run)], ["flowtune"])).text
    assert "node 'add' has learned nothing: it could not learn from any of its" in text
    assert (
        "no reference moves: the flow never reported the gate '<gate>'. It reported: high." in text
    )
    assert "node 'draw'" not in text


def test_evaluations_are_plotted_and_listed(tmp_path: Path, sums: RunSummary) -> None:
    text = Parsed(page(summarize_run(evaluated_run(tmp_path, "evaluated")))).text
    assert "Held-out examples" in text
    assert "The best checkpoint is that after 3 episodes, by high, of 9 of 10 examples." in text
    assert "episodes high own.exact examples failed" in text
    assert "3 0.750 0.125 10 1 best" in text
    assert "6 – 0.250 10 1" in text
    assert "held-out examples 0.500" in text  # in the legend
    assert "eld-out" not in Parsed(page(sums)).text
