"""Attention of packed rows over slots: each row of a step reads its own conversation's keys.

Registered with transformers as an attention implementation, so any model that takes its attention
from there runs on it. A row's numbers are a function of its conversation alone: keys lie at their
positions, widths are padded with zero weights, and values are added up in blocks of `BLOCK` keys,
whether a block belongs to a shared prefix or to the slot.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from charter.models.slots import ALIGNED, BLOCK, Prefix, Slots, Stored

NAME = "charter_slots"
_FEWEST_ROWS = 2
"""A product with a single row is computed by other code, with other bits."""


@dataclass(frozen=True)
class Part:
    """Rows of a step that attend together: decode rows of several slots, or a chunk of one."""

    rows: slice
    """Where they lie in the step."""
    slots: slice | Tensor
    positions: Tensor
    """Slots x rows of each."""
    places: Tensor | None
    """Which of the slots the rows belong to; None: every slot has its rows."""
    prefix: Prefix | None
    width: int
    """Own keys of the longest slot, padded."""

    def mask(self, *, window: int | None, dtype: torch.dtype) -> Tensor:
        """What to add to scores of slots x 1 x 1 x rows x keys."""
        places = torch.arange(self.keys, device=self.positions.device)
        at = self.positions[:, None, None, :, None]
        seen = places <= at
        if window is not None:
            seen &= places > at - window
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(
            ~seen, -torch.inf
        )

    @property
    def keys(self) -> int:
        """Keys in all, the prefix's included."""
        return self.width + (len(self.prefix) if self.prefix else 0)


class Step:
    """One forward pass: where each row's keys go, and which rows attend to what."""

    def __init__(self, slots: Slots, parts: Sequence[Part], *, slot: Tensor, place: Tensor) -> None:
        """`slot` and `place` (the key's index among the slot's own) have one entry for each row.

        The model may read more rows than these; what it makes of them is nobody's.
        """
        self._slots = slots
        self._parts = parts
        self._slot = slot
        self._place = place
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    def attend(
        self,
        layer: int,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Stores keys and values (1 x key heads x rows x size), gives 1 x rows x heads x size.

        Queries (1 x heads x rows x size) come scaled.
        """
        stored = self._slots.layer(layer, keys)
        for into, new in zip(stored, (keys, values), strict=True):
            into[self._slot, :, self._place] = new[0, :, : len(self._slot)].transpose(0, 1)
        output = queries.new_zeros(queries.shape[2], queries.shape[1], values.shape[3])
        for number, part in enumerate(self._parts):
            if (number, window) not in self._masks:
                mask = part.mask(window=window, dtype=queries.dtype)
                self._masks[number, window] = mask
            output[part.rows] = _attended(
                part,
                queries[0, :, part.rows],
                stored,
                part.prefix.layers[layer] if part.prefix else None,
                mask=self._masks[number, window],
                softcap=softcap,
            )
        return output[None]


def _attended(
    part: Part,
    queries: Tensor,
    stored: Stored,
    shared: Stored | None,
    *,
    mask: Tensor,
    softcap: float | None,
) -> Tensor:
    """Rows x heads x size, from queries of heads x rows x size."""
    count, length = part.positions.shape
    key_heads = stored[0].shape[1]
    group = queries.shape[0] // key_heads
    if part.places is not None:  # slots between them that have no row get one of zeros
        spread = queries.new_zeros(queries.shape[0], count * length, queries.shape[2])
        spread[:, part.places] = queries
        queries = spread
    rows = queries.reshape(key_heads, group, count, length, -1)
    rows = rows.permute(2, 0, 1, 3, 4).reshape(count, key_heads, group * length, -1)
    doubled = group * length < _FEWEST_ROWS
    if doubled:
        rows = rows.expand(-1, -1, _FEWEST_ROWS, -1)
    keys, values = (each[part.slots, :, : part.width] for each in stored)
    scores = torch.matmul(rows, keys.transpose(2, 3))
    if shared is not None:
        scores = torch.cat([_over_shared(rows, shared[0].transpose(1, 2)), scores], -1)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    over = scores.view(count, key_heads, -1, length, scores.shape[-1])
    over += mask
    weights = scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
    output = _sum_of_values(weights, values, shared[1] if shared else None)
    if doubled:
        output = output[:, :, :1]
    output = output.reshape(count, key_heads, group, length, -1).permute(0, 3, 1, 2, 4)
    output = output.reshape(count * length, key_heads * group, -1)
    return output if part.places is None else output[part.places]


def _over_shared(rows: Tensor, matrices: Tensor) -> Tensor:
    """Slots x heads x rows x size, each head times its matrix: one product for all slots."""
    count, heads, length, size = rows.shape
    together = rows.transpose(0, 1).reshape(heads, count * length, size)
    return torch.bmm(together, matrices).view(heads, count, length, -1).transpose(0, 1)


def _sum_of_values(weights: Tensor, values: Tensor, shared: Tensor | None) -> Tensor:
    """Values in proportion to their weights, added up block by block in order of position."""
    before = shared.shape[1] if shared is not None else 0
    output: Tensor | None = None
    for start in range(0, weights.shape[-1], BLOCK):
        block = weights[..., start : start + BLOCK]
        if shared is not None and start < before:
            term = _over_shared(block, shared[:, start : start + BLOCK])
        else:
            own = start - before
            term = torch.matmul(block, values[:, :, own : own + BLOCK])
        output = term if output is None else output + term
    assert output is not None
    return output


def padded(width: int) -> int:
    """The next width that cuts no vector instruction short."""
    return -(-width // ALIGNED) * ALIGNED


_running = threading.local()


@contextmanager
def running(step: Step) -> Generator[None]:
    """Attention of models that this thread runs goes to this step."""
    _running.step = step
    try:
        yield
    finally:
        _running.step = None


def _slot_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **__: Any,
) -> tuple[Tensor, None]:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    step: Step = _running.step
    output = step.attend(
        module.layer_idx, query * scale, key, value, window=sliding_window, softcap=softcap
    )
    return output, None


AttentionInterface.register(NAME, _slot_attention)  # pyright: ignore[reportUnknownMemberType]
