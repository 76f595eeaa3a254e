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


@dataclass(frozen=True)
class Part:
    """Rows that read keys together: one or more of each of several slots."""

    rows: slice
    """Where they lie in their group."""
    slots: slice | Tensor
    length: int
    """Rows of the slot that has most of them."""
    places: Tensor | None
    """Where they lie among slots x `length` rows; None: they are just these."""
    width: int
    """Own keys of the longest slot, padded."""


@dataclass(frozen=True)
class Group:
    """Rows of a step that begin with one prefix, or with none."""

    rows: slice
    """Where they lie in the step."""
    positions: Tensor
    """Of each row in its conversation."""
    prefix: Prefix | None
    parts: Sequence[Part]

    @property
    def shared(self) -> int:
        """Keys that all rows read."""
        return len(self.prefix) if self.prefix else 0

    @property
    def keys(self) -> int:
        """Keys in all, as many as the row with the most has."""
        return self.shared + max(part.width for part in self.parts)

    def unseen(self, *, window: int | None) -> Tensor:
        """Marks the keys that a row must not see: rows x 1 x 1 x keys."""
        keys = torch.arange(self.keys, device=self.positions.device)
        at = self.positions[:, None, None, None]
        unseen = keys > at
        return unseen if window is None else unseen | (keys <= at - window)


class Step:
    """One forward pass: where each row's keys go, and which rows attend to what."""

    def __init__(
        self, slots: Slots, groups: Sequence[Group], *, slot: Tensor, place: Tensor
    ) -> None:
        """`slot` and `place` (the key's index among the slot's own) have one entry for each row.

        The model may read more rows than these; what it makes of them is nobody's.
        """
        self._slots = slots
        self._groups = groups
        self._slot = slot
        self._place = place
        self._unseen: dict[tuple[int, int | None], Tensor] = {}

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
        heads, rows, size = queries.shape[1:]
        by_row = queries[0].view(keys.shape[1], -1, rows, size).permute(2, 0, 1, 3).contiguous()
        output = by_row.new_zeros(*by_row.shape[:3], values.shape[3])
        for number, group in enumerate(self._groups):
            if (number, window) not in self._unseen:
                self._unseen[number, window] = group.unseen(window=window)
            output[group.rows] = _attended(
                group,
                by_row[group.rows],
                stored,
                group.prefix.layers[layer] if group.prefix else None,
                unseen=self._unseen[number, window],
                softcap=softcap,
            )
        return output.view(1, rows, heads, -1)


def _attended(
    group: Group,
    queries: Tensor,
    stored: Stored,
    shared: Stored | None,
    *,
    unseen: Tensor,
    softcap: float | None,
) -> Tensor:
    """Rows x key heads x queries of each x size, like the queries.

    Keys and values are those of the slots; `shared` are the prefix's.
    """
    scores = queries.new_empty(*queries.shape[:3], group.keys)
    if shared is not None:
        scores[..., : group.shared] = _together(queries, shared[0].transpose(1, 2))
    for part in group.parts:
        keys = stored[0][part.slots, :, : part.width].transpose(2, 3)
        own = slice(group.shared, group.shared + part.width)
        scores[part.rows, ..., own] = _by_slot(queries[part.rows], keys, part)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = scores.masked_fill_(unseen, -torch.inf).softmax(-1, dtype=torch.float32)
    weights = weights.to(queries.dtype)
    output = queries.new_zeros(*queries.shape[:3], stored[1].shape[3])
    # Added up block by block in order of position, whichever of the two a block belongs to.
    if shared is not None:
        for start in range(0, group.shared, BLOCK):
            block = slice(start, start + BLOCK)
            output += _together(weights[..., block], shared[1][:, block])
    for part in group.parts:
        own_values = stored[1][part.slots, :, : part.width]  # a copy, where slots lie apart
        for start in range(0, part.width, BLOCK):
            stop = min(start + BLOCK, part.width)
            block = weights[part.rows, ..., group.shared + start : group.shared + stop]
            output[part.rows] += _by_slot(block, own_values[:, :, start:stop], part)
    return output


def _together(rows: Tensor, matrices: Tensor) -> Tensor:
    """Rows x heads x queries x any, by each head's matrix: one product for all rows."""
    count, heads, length, size = rows.shape
    flat = rows.transpose(0, 1).reshape(heads, count * length, size)
    return _product(flat, matrices).view(heads, count, length, -1).transpose(0, 1)


def _by_slot(rows: Tensor, matrices: Tensor, part: Part) -> Tensor:
    """The same by the matrices of each row's slot: slots x heads x any x any."""
    count, heads, group = len(matrices), *rows.shape[1:3]
    if part.places is not None:
        spread = rows.new_zeros(count * part.length, *rows.shape[1:])
        spread[part.places] = rows
        rows = spread
    if part.length > 1:
        rows = rows.view(count, part.length, heads, group, -1).transpose(1, 2)
        rows = rows.reshape(count, heads, part.length * group, -1)
    output = _product(rows, matrices)
    if part.length > 1:
        output = output.view(count, heads, part.length, group, -1).transpose(1, 2)
        output = output.reshape(count * part.length, heads, group, -1)
    return output if part.places is None else output[part.places]


def _product(rows: Tensor, matrices: Tensor) -> Tensor:
    """A matrix product of at least two rows: one row is multiplied by other code, to other bits."""
    if rows.shape[-2] >= _FEWEST_ROWS:
        return torch.matmul(rows, matrices)
    return torch.matmul(rows.expand(*rows.shape[:-2], _FEWEST_ROWS, -1), matrices)[..., :1, :]


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
