"""The text format of Prometheus."""

from __future__ import annotations

from flowtune_cli.gateway.metrics import Counter, Gauge, Histogram, exposition


def test_a_counter_with_labels() -> None:
    counter = Counter("made_total", 'How many\\ were\nmade, "all" told.', ("what", "how"))
    counter.add("b", "x")
    counter.add("a", 'say "\\"\n', by=2.5)
    counter.add("b", "x")
    assert exposition([counter]) == (
        '# HELP made_total How many\\\\ were\\nmade, "all" told.\n'
        "# TYPE made_total counter\n"
        'made_total{what="a",how="say \\"\\\\\\"\\n"} 2.5\n'
        'made_total{what="b",how="x"} 2\n'
    )


def test_a_gauge() -> None:
    assert exposition([Gauge("open", "Open.", lambda: 3)]) == (
        "# HELP open Open.\n# TYPE open gauge\nopen 3\n"
    )


def test_a_histogram_counts_all_below_a_bound() -> None:
    histogram = Histogram("seconds", "Seconds.", ("model",), bounds=(0.5, 2.0))
    for value in (0.25, 0.5, 1.0, 8.0):
        histogram.observe(value, "a")
    assert exposition([histogram]).splitlines()[2:] == [
        'seconds_bucket{model="a",le="0.5"} 2',
        'seconds_bucket{model="a",le="2"} 3',
        'seconds_bucket{model="a",le="+Inf"} 4',
        'seconds_sum{model="a"} 9.75',
        'seconds_count{model="a"} 4',
    ]
