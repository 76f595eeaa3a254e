"""What the update of a policy watches, and who is watched."""

import pytest
import torch

from charter.learning.policy import Rated, Watch, logprobs_by_group, policy_task, seen_by_all
from charter.learning.tree import Group


@pytest.fixture
def task_and_watch(new_model):
    """A policy, the task of two prompts with two responses each, and who watches it."""
    model, watch = new_model(), Watch()
    groups = {"a": Group((5, 6), ((7, 8), (9,))), "b": Group((5,), ((6,), (7, 8, 9)))}
    as_read = {"layout": "rows", "temperature": 1.3}
    said = logprobs_by_group(model, list(groups.values()), tokens_per_batch=64, **as_read)
    rated = {
        name: Rated(group, advantages=torch.tensor([1.0, -1.0]), sampled_S=own, reference_S=own)
        for (name, group), own in zip(groups.items(), said, strict=True)
    }
    return model, policy_task(rated, clip=0.2, kl_weight=0.1, watch=watch, **as_read), watch


def test_every_response_token_is_watched(task_and_watch):
    model, task, watch = task_and_watch
    task.loss(model, ["a", "b"])
    assert (watch.tokens, watch.clipped) == (7, 0)
    assert watch.gap < 1e-4


def test_what_stands_in_for_no_item_is_not_watched(task_and_watch):
    model, task, watch = task_and_watch
    assert torch.equal(task.stand_in(model, ["a"]), task.loss(model, ["a"]))
    assert watch.tokens == 3


def test_a_process_alone_has_seen_it_all(task_and_watch):
    model, task, watch = task_and_watch
    task.loss(model, ["a"])
    assert seen_by_all(watch) == watch
