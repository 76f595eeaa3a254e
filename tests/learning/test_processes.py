"""Several processes that share each batch train what one process trains."""

import os

import pytest
import torch

from charter.console import Silent
from charter.encoding import Example
from charter.learning.processes import join_processes
from charter.learning.tokens import token_task
from charter.learning.train import Keeping, train
from charter.learning.tree import Group, completion_logprobs
from tests.launching import free_port, place


def trained(directory, model, recipe, examples, held_out):
    """The weights after a training, and its losses."""
    outcome = train(
        model,
        task=token_task(model, examples, stage="finetune"),
        validation=token_task(model, held_out, stage="finetune"),
        recipe=recipe,
        seed=0,
        identity="tiny",
        keeping=Keeping(directory / "ckpt", directory / "m.jsonl", 0.0),
        progress=Silent(),
    )
    return [value.detach() for value in model.parameters()], [row.loss for row in outcome.rows]


def join(rank, port):
    os.environ.update(place(rank, port) | {"ACCELERATE_USE_CPU": "true"})
    torch.set_num_threads(1)


def work(rank, port, directory, model, recipe, rows):
    join(rank, port)
    examples, held_out = ({name: Example(*row) for name, row in part.items()} for part in rows)
    weights, losses = trained(directory, model, recipe, examples, held_out)
    torch.save((weights, losses), directory / f"rank-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path, new_model, new_examples, recipe):
    examples, held_out = new_examples(21), new_examples(5, seed=5, name="held-out")
    rows = [
        {name: (row.ids, row.prompt_length) for name, row in part.items()}
        for part in (examples, held_out)
    ]
    one, losses = trained(tmp_path / "one", new_model(), recipe, examples, held_out)
    two = tmp_path / "two"
    two.mkdir()
    torch.multiprocessing.spawn(work, args=(free_port(), two, new_model(), recipe, rows), nprocs=2)
    for rank in range(2):
        weights, losses_shared = torch.load(two / f"rank-{rank}.pt", weights_only=True)
        assert losses_shared == pytest.approx(losses, abs=1e-5)
        for mine, theirs in zip(weights, one, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-5)
    assert len((two / "m.jsonl").read_text().splitlines()) == len(losses)


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
    torch.distributed.destroy_process_group()


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
