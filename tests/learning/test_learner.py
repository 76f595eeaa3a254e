import gc
import weakref
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

import charter.learning.learner
from charter.learning.learner import (
    apply_gradients,
    finish,
    gradients,
    mean_loss,
    moments,
    prepare,
    set_moments,
    set_weights,
    weights,
)
from charter.learning.tokens import token_task


@pytest.fixture
def model(new_model):
    return new_model()


@pytest.fixture
def task(model, new_examples):
    return token_task(model, new_examples(8), stage="finetune")


@pytest.fixture
def names(task):
    return tuple(task.lengths)


@pytest.fixture
def learner(model):
    return prepare(model, weight_decay=0.0, longest=24)


def gradient(learner):
    return torch.cat([value.grad.flatten() for value in learner.model.parameters()])


def test_eight_batches_of_one_row_are_one_batch_of_eight(learner, task, names):
    loss_together = gradients(learner, task, [names])
    together = gradient(learner)
    learner.optimizer.zero_grad()
    loss_apart = gradients(learner, task, [(name,) for name in names])
    assert loss_apart == pytest.approx(loss_together, abs=1e-6)
    assert torch.allclose(gradient(learner), together, atol=1e-6)


def test_the_loss_is_a_mean_over_tokens_not_over_batches(learner, task, names):
    apart = [gradients(learner, task, [(name,)]) * task.units[name] for name in names]
    learner.optimizer.zero_grad()
    assert gradients(learner, task, [names[:5], names[5:]]) == pytest.approx(
        sum(apart) / task.units_of(names), abs=1e-6
    )


def test_measuring_is_training_without_a_step(learner, task, names):
    before = {name: value.clone() for name, value in weights(learner).items()}
    measured = mean_loss(learner, task, tokens_per_batch=48)
    assert measured == pytest.approx(gradients(learner, task, [names]), abs=1e-6)
    assert all(torch.equal(before[name], value) for name, value in weights(learner).items())


@pytest.mark.parametrize("world", [2, 3, 11])
def test_the_shares_of_several_processes_are_the_whole_batch(learner, task, names, world):
    """Processes that get no item, as 11 do of 8, compute a loss of zero."""

    def share(rank):
        alone = learner.processes
        there = SimpleNamespace(
            num_processes=world,
            process_index=rank,
            device=alone.device,
            reduce=lambda value, **_: value,
        )
        return mean_loss(replace(learner, processes=there), task, tokens_per_batch=4096)

    whole = mean_loss(learner, task, tokens_per_batch=4096)
    assert sum(share(rank) for rank in range(world)) == pytest.approx(whole, abs=1e-6)


def test_what_the_prompt_says_has_no_loss_of_its_own(new_model, new_examples):
    """The gradient of the head's input at prompt positions comes through attention alone."""
    model, examples = new_model(num_hidden_layers=1, tie_word_embeddings=False), new_examples(1)
    task = token_task(model, examples, stage="finetune")
    learner = prepare(model, weight_decay=0.0, longest=24)
    ((name, row),) = examples.items()
    gradients(learner, task, [(name,)])
    touched = model.lm_head.weight.grad.abs().sum(dim=1)
    hidden = model.model(input_ids=torch.tensor([row.ids])).last_hidden_state[0]
    scores = torch.softmax(model.lm_head(hidden), dim=-1)
    targets = torch.nn.functional.one_hot(torch.tensor(row.ids[1:]), num_classes=64)
    first = row.prompt_length - 1
    errors = (scores[:-1] - targets)[first:] / task.units[name]
    assert torch.allclose(touched, (errors.T @ hidden[:-1][first:]).abs().sum(dim=1), atol=1e-6)


def test_a_step_goes_where_the_gradient_points_and_gives_its_norm(learner, task, names):
    before = gradients(learner, task, [names])
    norm = gradient(learner).norm().item()
    assert apply_gradients(learner, lr=1e-3, max_grad_norm=0.5) == pytest.approx(norm, rel=1e-5)
    assert mean_loss(learner, task, tokens_per_batch=96) < before


def test_a_gradient_that_is_no_number_takes_no_step(learner, task, names):
    before = {name: value.clone() for name, value in weights(learner).items()}
    gradients(learner, task, [names])
    next(iter(learner.model.parameters())).grad[0, 0] = torch.nan
    apply_gradients(learner, lr=1e-3, max_grad_norm=1.0)
    assert all(torch.equal(before[name], value) for name, value in weights(learner).items())


def test_weights_and_moments_set_back_give_the_same_step_bit_for_bit(
    new_model, new_examples, learner, task, names
):
    def step(learner, task):
        gradients(learner, task, [names])
        apply_gradients(learner, lr=1e-3, max_grad_norm=1.0)

    step(learner, task)
    saved = [
        {name: value.clone() for name, value in held(learner).items()}
        for held in (weights, moments)
    ]
    step(learner, task)
    its_model = new_model(seed=9)
    its_task = token_task(its_model, new_examples(8), stage="finetune")
    other = prepare(its_model, weight_decay=0.0, longest=24)
    set_weights(other, saved[0])
    set_moments(other, saved[1])
    step(other, its_task)
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(learner).items())


def test_decay_spares_norms(new_model):
    learner = prepare(new_model(), weight_decay=0.1, longest=24)
    decayed, spared = learner.optimizer.param_groups
    assert {value.ndim for value in decayed["params"]} == {2}
    assert {value.ndim for value in spared["params"]} == {1}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


@pytest.fixture
def mixed(monkeypatch):
    """Trains as on a GPU: in bfloat16 over float32 weights."""
    AcceleratorState._reset_state(reset_partial_state=True)
    join = partial(Accelerator, mixed_precision="bf16", cpu=True)
    monkeypatch.setattr(charter.learning.learner, "join_processes", join)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("mixed")
def test_a_model_that_was_trained_in_mixed_precision_leaves_memory_at_once(new_model, task, names):
    model = new_model()
    learner = prepare(model, weight_decay=0.0, longest=24)
    gradients(learner, task, [names])
    finish(learner, model, kept=None)
    watched = weakref.ref(model)
    gc.disable()
    try:
        del learner, model
        assert watched() is None
    finally:
        gc.enable()
