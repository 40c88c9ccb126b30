"""Plots: well-formed, in the page's colours, and of no name that another plot has."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from flowtune_cli.report.plots import Line, Plot, draw

POINTS = [(8.0, 0.1), (16.0, 0.4), (24.0, None), (32.0, 0.3)]


def identifiers(svg: str) -> list[str]:
    return re.findall(r'id="([^"]+)"', svg)


def test_it_is_an_element_in_the_pages_colours() -> None:
    plot = Plot([Line(POINTS, 0, frozenset({16.0})), Line(POINTS[:2], 1)], True, [16.0])
    svg = draw(plot, "p")
    assert ET.fromstring(svg).tag.endswith("svg")
    assert "var(--series-0)" in svg
    assert "var(--series-1)" in svg
    assert "var(--ink)" in svg
    assert re.findall(r"(?<!&)#[0-9a-f]{6}\b|rgb\(", svg) == []
    assert "font-family" not in svg
    assert "<style" not in svg


def test_the_same_plot_is_the_same_text_and_two_plots_share_no_name() -> None:
    plot = Plot([Line(POINTS)], events=[16.0])
    assert draw(plot, "p") == draw(plot, "p")
    first, second = identifiers(draw(plot, "p")), identifiers(draw(plot, "q"))
    assert first
    assert set(first).isdisjoint(second)
    assert len(set(first)) == len(first)
    svg = draw(plot, "p")
    referred = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)
    assert {a or b for a, b in referred} <= set(first)


def test_a_point_alone_is_seen() -> None:
    alone, together = (draw(Plot([Line(POINTS[:count])]), "p") for count in (1, 2))
    series = r'<use [^>]*style="fill: var\(--series-0\)'
    assert len(re.findall(series, alone)) == 1
    assert re.findall(series, together) == []


def test_a_gap_stays_a_gap() -> None:
    svg = draw(Plot([Line(POINTS)]), "p")
    [path] = re.findall(
        r'<path d="([^"]*)" clip-path="[^"]*" style="fill: none; stroke: var\(--series-0', svg
    )
    assert path.count("M") == 2


def test_nothing_defined_is_empty() -> None:
    assert Plot([Line([(8.0, None)])]).empty
    assert not Plot([Line(POINTS)]).empty
