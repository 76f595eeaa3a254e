"""The benchmarks run, speak the promised format, and give both sides the same work."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import NAMES, main
from benchmarks.measuring import Figure, speedup

KEYS = ["figure", "value", "unit", "low", "high", "goal", "against"]


def test_a_figure_is_one_line_of_json_with_the_promised_keys():
    figure = Figure("x.y", 1.23456, "x", 1.0, 2.0, goal=None, against="the stock way")
    assert list(json.loads(figure.line())) == KEYS
    assert "\n" not in figure.line()
    assert json.loads(figure.line())["value"] == 1.235


def test_a_speedup_is_the_median_of_pairs_after_a_warm_up():
    ours = iter([50.0, 1.0, 1.0, 2.0])
    theirs = iter([1.0, 3.0, 2.0, 2.0])
    figure = speedup(
        "x.y",
        ours=lambda: next(ours),
        theirs=lambda: next(theirs),
        repeats=3,
        goal=1.5,
        against="the stock way",
    )
    assert (figure.low, figure.value, figure.high) == (1.0, 2.0, 3.0)


def test_an_unknown_benchmark_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as end:
        main(["generatoin"])
    assert end.value.code == 2
    assert "generatoin" in (said := capsys.readouterr().err)
    assert all(name in said for name in NAMES)


def test_both_sides_of_the_judge_benchmark_weigh_the_same():
    from benchmarks import generation, stock

    loaded = generation.loaded_model()
    dialogues = generation.comparisons(generation.Work(records=3, at_once=4, prefix=32, answer=8))
    with generation.local(loaded, capacity=4) as model:
        ours = asyncio.run(generation.weigh(model, dialogues))
    theirs = stock.weigh(loaded, dialogues, choices=generation.CHOICES, rows=4)
    for here, there in zip(ours, theirs, strict=True):
        assert here == pytest.approx(there, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_quick_benchmark_prints_nothing_but_figures(name):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", name, "--quick"],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert figures
    for figure in figures:
        assert list(figure) == KEYS
        assert figure["figure"].startswith(f"{name}.")
        assert 0 < figure["low"] <= figure["value"] <= figure["high"]
