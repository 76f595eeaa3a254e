"""What processes tell each other, in two that have met."""

import json
import os

import pytest
import torch

from charter.launch import from_main, joined, share
from charter.learning.processes import join_processes
from tests.launching import free_port, place

SIZES = (0, 1, 2, 5)


def talk(rank, port, directory):
    os.environ.update(place(rank, port))
    join_processes()
    heard = {
        "main": from_main(lambda: f"made by {rank}"),
        "whole": [joined([item * 10 for item in share(range(size))]) for size in SIZES],
    }
    (directory / f"{rank}.json").write_text(json.dumps(heard))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_shares_together_are_the_whole_in_its_order(tmp_path):
    torch.multiprocessing.spawn(talk, args=(free_port(), tmp_path), nprocs=2)
    for rank in range(2):
        heard = json.loads((tmp_path / f"{rank}.json").read_text())
        assert heard["main"] == "made by 0"
        assert heard["whole"] == [[item * 10 for item in range(size)] for size in SIZES]
