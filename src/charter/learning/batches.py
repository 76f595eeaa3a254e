"""Which items go through the model together, and in what order.

A plan is made of names alone, before anything runs, and for all processes at once. So it does not
depend on how many there are, and a resumed run reads on where it stopped.

Axes: B rows of a batch, T positions, S supervised positions, row by row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from charter.encoding import Example
from charter.seeding import uniform

LENGTH_STEP = 8
"""Lengths count as equal within so many tokens: rows of about one length meet other neighbours in
each epoch, and no epoch has more batches than another."""

Names = tuple[str, ...]
"""The items of one batch."""

Step = tuple[Names, ...]
"""The batches of one optimizer step."""


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded on the right.

    There is no attention mask: attention is causal, so no token sees the padding behind it, and
    the padding's own outputs are never read.
    """

    ids_BT: Tensor
    supervised_BT: Tensor
    """True where the *next* token belongs to a response."""
    targets_S: Tensor
    """Those next tokens."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(
            ids_BT=self.ids_BT.to(device),
            supervised_BT=self.supervised_BT.to(device),
            targets_S=self.targets_S.to(device),
        )


def plan_epoch(
    lengths: Mapping[str, int], *, tokens_per_batch: int, accumulate: int, seed: int, epoch: int
) -> list[Step]:
    """One pass over all items: batches of alike length, in an order drawn for the epoch.

    Args:
        lengths: Tokens of each item, by name.
        tokens_per_batch: Bound of rows x longest row. A longer item is a batch of its own.
        accumulate: Batches per optimizer step; the epoch's last step may have fewer.
        seed: Of the run.
        epoch: Which pass, from 0.
    """
    by_length = sorted(
        lengths, key=lambda name: (_rounded(lengths[name]), uniform(seed, "row", epoch, name), name)
    )
    batches = list(_within_budget(by_length, lengths=lengths, budget=tokens_per_batch))
    batches.sort(key=lambda names: (uniform(seed, "batch", epoch, names[0]), names[0]))
    return [
        tuple(batches[start : start + accumulate]) for start in range(0, len(batches), accumulate)
    ]


def plan_step(lengths: Mapping[str, int], *, tokens_per_batch: int, seed: int, epoch: int) -> Step:
    """The same as one optimizer step: all items, each once."""
    (step,) = plan_epoch(
        lengths,
        tokens_per_batch=tokens_per_batch,
        accumulate=len(lengths),
        seed=seed,
        epoch=epoch,
    )
    return step


def plan_steps(
    lengths: Mapping[str, int],
    *,
    tokens_per_batch: int,
    accumulate: int,
    seed: int,
    start: int,
    stop: int,
) -> Iterator[Step]:
    """The optimizer steps `start` (included) to `stop` (excluded), through the epochs."""
    epoch = 0
    first = 0
    while first < stop:
        steps = plan_epoch(
            lengths,
            tokens_per_batch=tokens_per_batch,
            accumulate=accumulate,
            seed=seed,
            epoch=epoch,
        )
        yield from steps[max(0, start - first) : stop - first]
        first += len(steps)
        epoch += 1


def _rounded(length: int) -> int:
    return math.ceil(length / LENGTH_STEP) * LENGTH_STEP


def _within_budget(
    by_length: Sequence[str], *, lengths: Mapping[str, int], budget: int
) -> Iterator[Names]:
    batch: list[str] = []
    for name in by_length:
        # Sorted, so the newcomer is the longest: it sets the width of all rows.
        if batch and (len(batch) + 1) * _rounded(lengths[name]) > budget:
            yield tuple(batch)
            batch = []
        batch.append(name)
    if batch:
        yield tuple(batch)


def collate(examples: Sequence[Example]) -> Batch:
    """The examples as one batch."""
    width = max(len(example.ids) for example in examples)
    ids_BT = torch.zeros(len(examples), width, dtype=torch.long)
    supervised_BT = torch.zeros(len(examples), width, dtype=torch.bool)
    for row, example in enumerate(examples):
        ids_BT[row, : len(example.ids)] = torch.tensor(example.ids)
        # Position t scores the token at t + 1. The first token of all is scored by nothing.
        first = max(1, example.prompt_length)
        supervised_BT[row, first - 1 : len(example.ids) - 1] = True
    return Batch(ids_BT, supervised_BT, _targets(ids_BT, supervised_BT))


def bare(model: nn.Module) -> nn.Module:
    """The model without wrappers for processes."""
    while isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
    return model


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights lie, and so its batches must."""
    return next(model.parameters()).device


def _targets(ids_BT: Tensor, supervised_BT: Tensor) -> Tensor:
    return ids_BT[:, 1:][supervised_BT[:, :-1]]
