"""Several processes that share each batch train what one process trains."""

import os
import socket

import pytest
import torch

from charter.console import Silent
from charter.encoding import Example
from charter.learning.tokens import token_task
from charter.learning.train import Keeping, train


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


def work(rank, port, directory, model, recipe, rows):
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    examples, held_out = ({name: Example(*row) for name, row in part.items()} for part in rows)
    weights, losses = trained(directory, model, recipe, examples, held_out)
    torch.save((weights, losses), directory / f"rank-{rank}.pt")
    torch.distributed.destroy_process_group()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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
