"""Several processes that share each batch train what one process trains."""

import copy
import json
import os
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
import torch

from charter.config import LoraConfig
from charter.console import Silent
from charter.encoding import Example
from charter.learning.learner import prepare
from charter.learning.pretrained import made_trainable
from charter.learning.processes import join_processes
from charter.learning.shards import spread, whole
from charter.learning.tokens import token_task
from charter.learning.train import Keeping, train
from charter.learning.tree import Group, completion_logprobs
from tests.launching import free_port, place


def trained(directory, model, recipe, examples, held_out, *, shard=False, change=lambda task: task):
    """The weights after a training, and its losses."""
    outcome = train(
        model,
        task=change(token_task(model, examples, stage="finetune")),
        validation=token_task(model, held_out, stage="finetune") if held_out else None,
        recipe=recipe,
        seed=0,
        identity="tiny",
        keeping=Keeping(directory / "ckpt", directory / "m.jsonl", 0.0),
        progress=Silent(),
        shard=shard,
    )
    return [value.detach() for value in model.parameters()], [row.loss for row in outcome.rows]


def plain(*parts):
    """Examples as a process can be given them."""
    return [{name: (row.ids, row.prompt_length) for name, row in part.items()} for part in parts]


def join(rank, port):
    os.environ.update(place(rank, port) | {"ACCELERATE_USE_CPU": "true"})
    torch.set_num_threads(1)


def leave():
    """Ends a process where it stands.

    In an interpreter that takes itself down, a thread of gloo that still lets go of a tensor aborts
    it ("terminate called without an active exception").
    """
    torch.distributed.destroy_process_group()
    os._exit(0)


def work(rank, port, directory, model, recipe, rows, shard):
    join(rank, port)
    examples, held_out = ({name: Example(*row) for name, row in part.items()} for part in rows)
    weights, losses = trained(directory, model, recipe, examples, held_out, shard=shard)
    torch.save((weights, losses), directory / f"rank-{rank}.pt")
    leave()


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_train_what_one_does(tmp_path, new_model, new_examples, recipe, shard):
    examples, held_out = new_examples(21), new_examples(5, seed=5, name="held-out")
    one, losses = trained(tmp_path / "one", new_model(), recipe, examples, held_out)
    two = tmp_path / "two"
    two.mkdir()
    given = (two, new_model(), recipe, plain(examples, held_out), shard)
    torch.multiprocessing.spawn(work, args=(free_port(), *given), nprocs=2)
    for rank in range(2):
        weights, losses_shared = torch.load(two / f"rank-{rank}.pt", weights_only=True)
        assert losses_shared == pytest.approx(losses, abs=1e-5)
        for mine, theirs in zip(weights, one, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-5)
    assert len((two / "m.jsonl").read_text().splitlines()) == len(losses)


class CutOffError(Exception):
    """Stands for whatever ends all processes at once."""


def stopping(task, *, after, seen):
    """The task, until so many of its losses were computed; it notes whose they were."""

    def loss(model, names):
        if len(seen) == after:
            raise CutOffError
        seen.append(names)
        return task.loss(model, names)

    return replace(task, loss=loss)


def resume_spread(rank, port, directory, recipe, new_model, rows):
    join(rank, port)
    examples = {name: Example(*row) for name, row in rows.items()}
    asked = []
    for after in (9, 10**6):
        model, seen = adapted(new_model), []
        stop = partial(stopping, after=after, seen=seen)
        with suppress(CutOffError):
            trained(directory, model, recipe, examples, {}, shard=True, change=stop)
        asked.append(len(seen))
    weights = [value.detach() for value in model.parameters()]
    torch.save((weights, asked), directory / f"rank-{rank}.pt")
    leave()


def adapted(model):
    """A copy with adapters, that keeps few activations."""
    return made_trainable(
        copy.deepcopy(model), lora=LoraConfig(rank=2), seed=0, gradient_checkpointing=True
    )


@pytest.mark.slow
def test_a_spread_training_goes_on_where_it_was_cut_off(tmp_path, new_model, new_examples, recipe):
    examples = new_examples(21)
    recipe = replace(recipe, accumulate=2)
    one, losses = trained(tmp_path / "one", adapted(new_model()), recipe, examples, {})
    two = tmp_path / "two"
    two.mkdir()
    given = (two, recipe, new_model(), *plain(examples))
    torch.multiprocessing.spawn(resume_spread, args=(free_port(), *given), nprocs=2)
    kept = [json.loads(line)["loss"] for line in (two / "m.jsonl").read_text().splitlines()]
    assert kept == pytest.approx(losses, abs=1e-5)
    for rank in range(2):
        weights, (cut_off, rest) = torch.load(two / f"rank-{rank}.pt", weights_only=True)
        assert cut_off == 9
        assert 0 < rest < 9  # anew, it would be more than before
        for mine, theirs in zip(weights, one, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-5)


def share(rank, port, directory, model):
    join(rank, port)
    group = Group((5, 6, 7), ((8, 9), (10,)))
    learner = prepare(model, weight_decay=0.0, longest=8, shard=True)
    own = sum(value.to_local().numel() for value in learner.model.parameters())
    halved = spread(model, device=torch.device("cpu"), precision=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        completion_logprobs(halved, [group], layout="tree").sum().backward()
    found = torch.cat([whole(value.grad).flatten() for value in halved.parameters()])
    completion_logprobs(learner.model, [group], layout="tree").sum().backward()
    exact = torch.cat([whole(value.grad).flatten() for value in learner.model.parameters()])
    torch.save((own, exact, found), directory / f"rank-{rank}.pt")
    leave()


@pytest.mark.parametrize("tied", [False, True])
def test_each_process_keeps_half_of_a_spread_model(tmp_path, new_model, tied):
    model = new_model(tie_word_embeddings=tied)
    parameters = sum(value.numel() for value in model.parameters())
    one = gradient(copy.deepcopy(model), [Group((5, 6, 7), ((8, 9), (10,)))], "rows")
    torch.multiprocessing.spawn(share, args=(free_port(), tmp_path, model), nprocs=2)
    for rank in range(2):
        own, exact, half = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        assert own == parameters / 2
        assert torch.allclose(exact, one, atol=1e-5)
        assert 0 < (half - one).abs().mean() < 2e-2 * one.abs().max()


def gradient(model, groups, layout):
    """Of the summed log-probabilities; accelerate's if the model is wrapped."""
    completion_logprobs(model, groups, layout=layout).sum().backward()
    return torch.cat([value.grad.flatten() for value in model.parameters()])


def read(rank, port, directory, model, shapes):
    join(rank, port)
    processes = join_processes()
    wrapped = processes.prepare(model)
    gradients = {}
    for layout in ("rows", "tree", "shared"):
        wrapped.zero_grad()
        gradients[layout] = gradient(wrapped, [Group(*shapes[rank])], layout)
    torch.save(gradients, directory / f"rank-{rank}.pt")
    leave()


@pytest.mark.slow
def test_two_processes_read_groups_as_one_does(tmp_path, new_model):
    # A window that cuts the second process's group alone: it reads in one pass, the other in two.
    shapes = [((5, 6, 7), ((8,), (9,))), (tuple(range(5, 25)), ((8, 9), (10,)))]
    one = gradient(new_model(), [Group(*shape) for shape in shapes], "rows") / 2
    model = new_model()
    model.config.sliding_window = 12
    torch.multiprocessing.spawn(read, args=(free_port(), tmp_path, model, shapes), nprocs=2)
    for rank in range(2):
        for both in torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True).values():
            assert torch.allclose(both, one, atol=1e-5)
