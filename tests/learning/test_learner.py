import pytest
import torch

from charter.learning.batches import supervised_tokens
from charter.learning.learner import (
    apply_gradients,
    gradients,
    mean_loss,
    moments,
    prepare,
    set_moments,
    set_weights,
    weights,
)


@pytest.fixture
def rows(new_examples):
    return list(new_examples(8).values())


@pytest.fixture
def learner(new_model, rows):
    return prepare(new_model(), weight_decay=0.0, probe=rows)


def gradient(learner):
    return torch.cat([value.grad.flatten() for value in learner.model.parameters()])


def test_eight_batches_of_one_row_are_one_batch_of_eight(learner, rows):
    loss_together = gradients(learner, [rows])
    together = gradient(learner)
    learner.optimizer.zero_grad()
    loss_apart = gradients(learner, [[row] for row in rows])
    assert loss_apart == pytest.approx(loss_together, abs=1e-6)
    assert torch.allclose(gradient(learner), together, atol=1e-6)


def test_the_loss_is_a_mean_over_tokens_not_over_batches(learner, rows):
    apart = [gradients(learner, [[row]]) * supervised_tokens([row]) for row in rows]
    learner.optimizer.zero_grad()
    assert gradients(learner, [rows[:5], rows[5:]]) == pytest.approx(
        sum(apart) / supervised_tokens(rows), abs=1e-6
    )


def test_measuring_is_training_without_a_step(learner, rows):
    before = {name: value.clone() for name, value in weights(learner).items()}
    measured = mean_loss(learner, rows, tokens_per_batch=48)
    assert measured == pytest.approx(gradients(learner, [rows]), abs=1e-6)
    assert all(torch.equal(before[name], value) for name, value in weights(learner).items())


def test_what_the_prompt_says_has_no_loss_of_its_own(new_model, rows):
    """The gradient of the head's input at prompt positions comes through attention alone."""
    model = new_model(num_hidden_layers=1, tie_word_embeddings=False)
    learner = prepare(model, weight_decay=0.0, probe=rows)
    (row,) = rows[:1]
    gradients(learner, [[row]])
    touched = model.lm_head.weight.grad.abs().sum(dim=1)
    hidden = model.model(input_ids=torch.tensor([row.ids])).last_hidden_state[0]
    scores = torch.softmax(model.lm_head(hidden), dim=-1)
    targets = torch.nn.functional.one_hot(torch.tensor(row.ids[1:]), num_classes=64)
    first = row.prompt_length - 1
    errors = (scores[:-1] - targets)[first:] / supervised_tokens([row])
    assert torch.allclose(touched, (errors.T @ hidden[:-1][first:]).abs().sum(dim=1), atol=1e-6)


def test_a_step_goes_where_the_gradient_points_and_gives_its_norm(learner, rows):
    before = gradients(learner, [rows])
    norm = gradient(learner).norm().item()
    assert apply_gradients(learner, lr=1e-3, max_grad_norm=0.5) == pytest.approx(norm, rel=1e-5)
    assert mean_loss(learner, rows, tokens_per_batch=96) < before


def test_a_gradient_that_is_no_number_takes_no_step(learner, rows):
    before = {name: value.clone() for name, value in weights(learner).items()}
    gradients(learner, [rows])
    next(iter(learner.model.parameters())).grad[0, 0] = torch.nan
    apply_gradients(learner, lr=1e-3, max_grad_norm=1.0)
    assert all(torch.equal(before[name], value) for name, value in weights(learner).items())


def test_weights_and_moments_set_back_give_the_same_step_bit_for_bit(new_model, learner, rows):
    def step(learner):
        gradients(learner, [rows])
        apply_gradients(learner, lr=1e-3, max_grad_norm=1.0)

    step(learner)
    saved = [
        {name: value.clone() for name, value in held(learner).items()}
        for held in (weights, moments)
    ]
    step(learner)
    other = prepare(new_model(seed=9), weight_decay=0.0, probe=rows)
    set_weights(other, saved[0])
    set_moments(other, saved[1])
    step(other)
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(learner).items())


def test_decay_spares_norms(new_model, rows):
    learner = prepare(new_model(), weight_decay=0.1, probe=rows)
    decayed, spared = learner.optimizer.param_groups
    assert {value.ndim for value in decayed["params"]} == {2}
    assert {value.ndim for value in spared["params"]} == {1}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
