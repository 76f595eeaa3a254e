"""The benchmarks run, speak the promised format, and give both sides the same work."""

import asyncio
import json
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import NAMES, main, meant
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


def test_a_name_stands_for_all_that_begin_with_it():
    assert meant(["generation"]) == [
        "generation",
        "generation.decode_step",
        "generation.ctranslate2",
    ]
    assert meant(["generation.ctranslate2", "journal"]) == ["journal", "generation.ctranslate2"]


def test_both_sides_of_the_judge_benchmark_weigh_the_same():
    from benchmarks import generation, stock

    loaded = generation.loaded_model()
    dialogues = generation.comparisons(generation.Work(records=3, at_once=4, prefix=32, answer=8))
    with generation.local(loaded, capacity=4) as model:
        ours = asyncio.run(generation.weigh(model, dialogues))
    theirs = stock.weigh(loaded, dialogues, choices=generation.CHOICES, rows=4)
    for here, there in zip(ours, theirs, strict=True):
        assert here == pytest.approx(there, abs=1e-4)


@torch.inference_mode()
def test_a_decode_step_writes_one_token_in_every_slot_and_reads_nothing_else():
    from benchmarks import decode, tiny
    from charter.models.network import Network

    asked = decode.prompts(16, shared=70, own=5, vocabulary=tiny.VOCABULARY)
    scheduler = decode.decoding(Network(tiny.model().eval()), asked)
    before = scheduler.rows_read
    for _ in range(4):
        scheduler.step()
    assert scheduler.rows_read - before == 4 * len(asked)


@torch.inference_mode()
def test_the_limit_of_a_decode_step_counts_every_product_with_a_weight():
    from benchmarks import decode, tiny

    model, multiplied = tiny.model().eval(), []
    product = torch.nn.functional.linear
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.nn.functional,
            "linear",
            lambda rows, weight, bias=None: (
                multiplied.append(weight) or product(rows, weight, bias)
            ),
        )
        model(input_ids=torch.tensor([[1, 2]]), use_cache=False)
    assert sorted(map(id, multiplied)) == sorted(map(id, decode.weights(model)))


@pytest.mark.parametrize("by_callback", [False, True])
def test_ctranslate2_is_given_the_same_work_and_writes_the_same(by_callback):
    pytest.importorskip("ctranslate2")
    from benchmarks import peers, tiny

    work = replace(peers.work(5, rows=2, shared=16, answer=6), temperature=0.0)
    model = tiny.model().eval()
    with closing(peers.engine(model, capacity=work.rows)) as engine:
        ours = peers.write(engine, work)
    assert [len(answer) for answer in ours] == work.limits
    assert len(set(map(tuple, ours))) > 1
    assert peers.write_peer(peers.peer(model), work, by_callback=by_callback) == ours


def test_without_ctranslate2_one_line_says_how_to_get_it(monkeypatch, capsys):
    from benchmarks import peers

    monkeypatch.setitem(sys.modules, "ctranslate2", None)  # as if it were not installed
    assert not list(peers.figures(quick=True))
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'charter[bench]'" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_what_is_needed(capsys):
    from benchmarks import gpu

    assert not list(gpu.figures(quick=True))
    (line,) = capsys.readouterr().err.splitlines()
    assert "CUDA" in line


def test_the_gpu_benchmark_measures_all_its_figures_on_any_device(capsys):
    from benchmarks import gpu

    work = gpu.Work(slots=(1, 3), prompt=8, answer=4, copied_bytes=2**16, repeats=1)
    figures = list(gpu.of_model("tiny", gpu.tiny_shape(), work, device=torch.device("cpu")))
    assert "failed" not in capsys.readouterr().err
    assert [figure.figure for figure in figures] == [
        f"gpu.tiny.{slots}.{what}"
        for slots in work.slots
        for what in ("bandwidth", "tokens", "generate", "continuous_batching")
    ]
    assert all(figure.value > 0 for figure in figures)


@pytest.mark.slow
def test_both_sides_of_the_reinforce_benchmark_take_steps_of_as_many_tokens():
    from benchmarks import reinforce, tiny

    work = reinforce.Work(steps=2, prompts=2, group=2, prompt=12, answer=4)
    ids = tiny.tokenizer().apply_chat_template(
        [turn.model_dump() for turn in reinforce.prompts(work)[0].messages],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert len(ids) == work.prompt
    most = work.steps * work.prompts * work.group * work.answer
    tuned = {"bf16": False, "gradient_checkpointing": False}
    for spent in (reinforce.ours(work), reinforce.theirs(work, tuned)):
        assert 0.9 * most <= spent.tokens <= most  # a response in a thousand ends before
        assert spent.cpu_s > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.gpu] * (name == "gpu")) for name in NAMES]
)
def test_a_quick_benchmark_prints_nothing_but_figures(name):
    if name == "generation.ctranslate2":
        pytest.importorskip("ctranslate2")
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
        assert f"{figure['figure']}.".startswith(f"{name}.")
        assert 0 < figure["low"] <= figure["value"] <= figure["high"]
