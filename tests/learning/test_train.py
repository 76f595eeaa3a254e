import json
import logging
import os
import random
from dataclasses import replace

import pytest
import torch

from charter.console import Silent
from charter.encoding import Example
from charter.errors import GuardError, RunError
from charter.learning.learner import mean_loss, prepare
from charter.learning.tokens import token_task
from charter.learning.train import Keeping, train


class Killed(BaseException):
    """What stops a process from outside."""


def task_of(model, examples):
    return token_task(model, examples, stage="finetune")


class Dying(Silent):
    """Progress whose watcher pulls the plug when it has heard so many steps."""

    def __init__(self, after):
        self.left = after

    def advance(self, steps=1, *, note=None):
        if note is None:
            return
        self.left -= steps
        if self.left == 0:
            raise Killed


@pytest.fixture
def run(tmp_path, new_model, new_examples, recipe):
    """Trains a fresh tiny model in a directory of this name."""
    examples, held_out = new_examples(24), new_examples(6, seed=5, name="held-out")

    def run(name, *, progress=None, checkpoint_every_s=0.0, **changes):
        model = changes.pop("model", None) or new_model(attention_dropout=0.1)
        validation = changes.pop("validation", held_out)
        options = {
            "task": task_of(model, changes.pop("examples", examples)),
            "validation": task_of(model, validation) if validation else None,
            "recipe": recipe,
            "seed": 7,
            "identity": "tiny",
            "progress": progress or Silent(),
        }
        directory = tmp_path / name
        keeping = Keeping(directory / "ckpt", directory / "m.jsonl", checkpoint_every_s)
        outcome = train(model, **(options | changes), keeping=keeping)
        return model, outcome, timeless(directory / "m.jsonl")

    return run


def timeless(path):
    """The rows of a metrics file, without the one figure that a clock makes."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "tokens_per_s"} for row in rows]


def same_bits(one, other):
    return all(
        torch.equal(mine, theirs)
        for mine, theirs in zip(one.parameters(), other.parameters(), strict=True)
    )


def test_training_lowers_the_loss_and_says_how_it_went(run, new_model):
    model, outcome, rows = run("run")
    steps = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in steps] == list(range(1, outcome.planned_steps + 1))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[-1]["epoch"] == 2.0
    assert steps[-1]["tokens"] > steps[0]["tokens"] > 0
    assert [row["step"] for row in rows if row["kind"] == "validation"][:2] == [0, 3]
    assert not same_bits(model, new_model())
    assert not model.training


def test_the_same_seed_trains_the_same_bits_and_another_does_not(run):
    first, _, rows = run("a")
    second, _, rows_again = run("b")
    third, _, _ = run("c", seed=8)
    assert same_bits(first, second)
    assert rows == rows_again
    assert not same_bits(first, third)


@pytest.mark.parametrize("trial", range(4))
def test_resumed_is_uninterrupted_bit_for_bit(run, trial):
    whole, outcome, rows = run("whole")
    draws = random.Random(trial)
    for _ in range(3):
        every_s = draws.choice([0.0, 1e9])
        with pytest.raises(Killed):
            run("cut", progress=Dying(draws.randint(1, 3)), checkpoint_every_s=every_s)
    resumed, outcome_again, rows_again = run("cut")
    assert same_bits(resumed, whole)
    assert rows_again == rows
    assert outcome_again.best == outcome.best


@pytest.mark.parametrize("deadly_write", [1, 4, 9, 14, 20, 27])
def test_dying_in_the_middle_of_a_checkpoint_changes_nothing(run, monkeypatch, deadly_write):
    whole, _, rows = run("whole")
    fsync, writes = os.fsync, []

    def dying_fsync(descriptor):
        writes.append(descriptor)
        if len(writes) == deadly_write:
            raise Killed
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", dying_fsync)
    with pytest.raises(Killed):
        run("cut")
    monkeypatch.undo()
    resumed, _, rows_again = run("cut")
    assert same_bits(resumed, whole)
    assert rows_again == rows


def test_a_damaged_checkpoint_costs_time_but_no_bit(run, tmp_path):
    whole, _, rows = run("whole")
    with pytest.raises(Killed):
        run("cut", progress=Dying(5))
    newest = max((tmp_path / "cut" / "ckpt").glob("step-*"))
    (newest / "weights.safetensors").write_bytes(b"rotten")
    resumed, _, rows_again = run("cut")
    assert same_bits(resumed, whole)
    assert rows_again == rows


def test_checkpoints_of_another_training_are_refused(run, recipe):
    with pytest.raises(Killed):
        run("run", progress=Dying(2))
    with pytest.raises(RunError, match="checkpoints of another training"):
        run("run", recipe=replace(recipe, lr=1e-4))


def test_many_small_batches_train_as_one_large(run, new_model, new_examples, recipe):
    rows = {name: Example(e.ids[-12:], 8) for name, e in new_examples(8, longest=30).items()}
    rows = {name: row for name, row in rows.items() if len(row.ids) == 12}
    one_by_one = replace(recipe, tokens_per_batch=16, accumulate=len(rows), epochs=5)
    at_once = replace(recipe, tokens_per_batch=16 * len(rows), accumulate=1, epochs=5)
    first, outcome, _ = run("a", examples=rows, recipe=one_by_one, model=new_model())
    second, outcome_at_once, _ = run("b", examples=rows, recipe=at_once, model=new_model())
    assert outcome.steps == outcome_at_once.steps == 5
    for mine, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_planted_overfitting_is_stopped_and_its_best_weights_kept(run, recipe, new_examples):
    """The held-out rows follow the prompts with other tokens: what is learnt is wrong for them."""
    examples = new_examples(6)
    planted = {
        name: Example(
            (
                *row.ids[: row.prompt_length],
                *(63 - token for token in row.ids[row.prompt_length :]),
            ),
            row.prompt_length,
        )
        for name, row in examples.items()
    }
    stopping = replace(recipe, epochs=60, lr=1e-2, validate_every=2, patience=3, min_delta=0.001)
    model, outcome, rows = run("run", examples=examples, validation=planted, recipe=stopping)
    losses = {row["step"]: row["loss"] for row in rows if row["kind"] == "validation"}
    assert outcome.steps < outcome.planned_steps
    assert outcome.best.step < outcome.steps
    assert max(losses) == outcome.steps == outcome.best.step + 3 * 2
    assert losses[outcome.steps] > outcome.best.loss
    learner = prepare(model, weight_decay=0.0, longest=24)
    measured = mean_loss(learner, task_of(model, planted), tokens_per_batch=96)
    assert measured == pytest.approx(outcome.best.loss, abs=1e-6)


def test_without_validation_all_epochs_are_run_and_the_last_weights_kept(run, caplog):
    with caplog.at_level(logging.WARNING):
        _, outcome, rows = run("run", validation={})
    assert outcome.best is None
    assert outcome.steps == outcome.planned_steps
    assert {row["kind"] for row in rows} == {"train"}
    assert "the turning point cannot be found" in caplog.text


def test_too_little_data_is_said(run, caplog):
    with caplog.at_level(logging.WARNING):
        run("run")
    assert "only 24 examples to train on" in caplog.text


class Heard(Silent):
    """Progress that writes down how the work ended."""

    def __init__(self):
        self.ends = []

    def finish(self, summary=None):
        self.ends.append(summary)

    def stop(self):
        self.ends.append("stop")


def test_progress_hears_what_training_came_to(run):
    progress = Heard()
    _, outcome, _ = run("run", progress=progress)
    best = outcome.best
    assert progress.ends == [f"best: step {best.step}, validation {best.loss:.3f}", "stop"]


def test_progress_is_stopped_where_a_guard_ends_training(run, new_model):
    model, progress = new_model(), Heard()
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(GuardError):
        run("run", model=model, validation={}, progress=progress)
    assert progress.ends == ["stop"]


def test_memory_that_runs_out_names_the_step_and_what_needs_less(run, new_model):
    model, steps = new_model(), []

    def run_out(gradient):
        steps.append(gradient)
        if len(steps) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.model.norm.weight.register_hook(run_out)
    with pytest.raises(RunError, match=r"at step 4 of training\. Lower `finetune"):
        run("run", model=model)


def test_a_loss_that_is_no_number_stops_with_its_cause(run, new_model):
    model = new_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(GuardError, match=r"validation loss is nan.*Lower `finetune.lr`"):
        run("run", model=model)
    with pytest.raises(GuardError, match=r"loss is nan at step 1 \(learning rate .*examples row-"):
        run("run", model=model, validation={})


def test_a_gradient_that_is_no_number_stops_before_the_weights_change(run, new_model):
    model = new_model()
    model.model.norm.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(GuardError, match="gradient norm is"):
        run("run", model=model, validation={})
    assert same_bits(model, new_model())


def test_a_fully_masked_example_stops_before_the_first_step(run):
    with pytest.raises(GuardError, match="fully masked"):
        run("run", examples={"demo-1": Example((5, 6, 7), prompt_length=3)})


def test_an_empty_train_set_stops(run):
    with pytest.raises(GuardError, match="no example to train on"):
        run("run", examples={})


def test_training_that_does_not_help_is_said(run, recipe, caplog):
    with caplog.at_level(logging.WARNING):
        run("run", recipe=replace(recipe, lr=1.0, warmup_share=0.0))
    assert "did not lower validation loss" in caplog.text
