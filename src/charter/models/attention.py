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
from torch.nn import functional
from transformers import AttentionInterface

from charter.models.slots import ALIGNED, BLOCK, Prefix, Slots, Stored

NAME = "charter_slots"
_FEWEST_ROWS = 4


@dataclass(frozen=True)
class Chunk:
    """Rows of one slot, one after the other."""

    rows: slice
    """Where they lie in their group."""
    slot: int
    width: int
    """Own keys of the slot, padded."""

    def own(self, stored: Tensor) -> Tensor:
        """The slot's own ones of stored keys or values: heads x width x size."""
        return stored[self.slot, :, : self.width]


@dataclass(frozen=True)
class Singles:
    """One row of each of several slots, which read their keys in one product."""

    rows: slice
    """Where they lie in their group."""
    slots: slice | Tensor
    width: int
    """Own keys of the longest slot, padded."""
    spread: Tensor | None = None
    """Where slots between them have no row: which row each slot takes, of these slots any."""
    places: Tensor | None = None
    """Then: each row's slot among the slots."""

    def own(self, stored: Tensor) -> Tensor:
        """The slots' own ones, slots x heads x width x size; a copy, where slots lie apart."""
        return stored[self.slots, :, : self.width]


Part = Chunk | Singles


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
        """Marks the last keys that a row must not see: rows x 1 x keys.

        Without a window these are own keys: a prefix precedes all rows.
        """
        first = self.shared if window is None else 0
        keys = torch.arange(first, self.keys, device=self.positions.device)
        at = self.positions[:, None, None]
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
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Stores keys and values (1 x key heads x rows x size), gives 1 x rows x heads x size.

        Queries (1 x heads x rows x size) are multiplied by `scale`.
        """
        stored = self._slots.layer(layer, keys)
        for into, new in zip(stored, (keys, values), strict=True):
            into[self._slot, :, self._place] = new[0, :, : len(self._slot)].transpose(0, 1)
        heads, rows, size = queries.shape[1:]
        by_head = queries[0].view(keys.shape[1], -1, rows, size).transpose(1, 2)
        by_head = torch.mul(by_head, scale, out=queries.new_empty(by_head.shape))
        output = by_head.new_zeros(*by_head.shape[:3], values.shape[3])
        for number, group in enumerate(self._groups):
            if (number, window) not in self._unseen:
                self._unseen[number, window] = group.unseen(window=window)
            output[:, group.rows] = _attended(
                group,
                by_head[:, group.rows],
                stored,
                group.prefix.layers[layer] if group.prefix else None,
                unseen=self._unseen[number, window],
                softcap=softcap,
            )
        return output.transpose(0, 1).reshape(1, rows, heads, -1)


def _attended(
    group: Group,
    queries: Tensor,
    stored: Stored,
    shared: Stored | None,
    *,
    unseen: Tensor,
    softcap: float | None,
) -> Tensor:
    """Key heads x rows x queries of each x size, like the queries.

    Keys and values are those of the slots; `shared` are the prefix's.
    """
    scores = queries.new_empty(*queries.shape[:3], group.keys)
    if shared is not None:
        scores[..., : group.shared] = _product(queries, shared[0].transpose(1, 2))
    for part in group.parts:
        own = slice(group.shared, group.shared + part.width)
        scores[:, part.rows, :, own] = _by_slot(
            queries[:, part.rows], part.own(stored[0]).transpose(-1, -2), part
        )
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores[..., group.keys - unseen.shape[-1] :].masked_fill_(unseen, -torch.inf)
    weights = scores.softmax(-1, dtype=torch.float32).to(queries.dtype)
    # Added up block by block in order of position, whichever of the two a block belongs to.
    output = queries.new_zeros(*queries.shape[:3], stored[1].shape[3])
    if shared is not None:
        for start in range(0, group.shared, BLOCK):
            block = slice(start, start + BLOCK)
            output += _product(weights[..., block], shared[1][:, block])
    for part in group.parts:
        own_values, sums = part.own(stored[1]), output[:, part.rows]
        for start in range(0, part.width, BLOCK):
            stop = min(start + BLOCK, part.width)
            block = weights[:, part.rows, :, group.shared + start : group.shared + stop]
            sums += _by_slot(block, own_values[..., start:stop, :], part)
    return output


def _by_slot(rows: Tensor, matrices: Tensor, part: Part) -> Tensor:
    """Key heads x rows x queries of each x any, by the matrices of each row's slot."""
    if isinstance(part, Chunk):
        return _product(rows, matrices)
    rows = rows.transpose(0, 1)
    if part.spread is not None:
        rows = rows[part.spread]
    output = _multiplied(rows, matrices)
    if part.places is not None:
        output = output[part.places]
    return output.transpose(0, 1)


def _product(rows: Tensor, matrices: Tensor) -> Tensor:
    """Heads x rows x queries of each x any, by each head's matrix: one product for all rows."""
    output = _multiplied(rows.flatten(1, 2), matrices)
    return output.view(*rows.shape[:3], -1)


def _multiplied(rows: Tensor, matrices: Tensor) -> Tensor:
    """A matrix product of at least four rows: fewer are multiplied by other code, to other bits."""
    missing = _FEWEST_ROWS - rows.shape[-2]
    if missing <= 0:
        return torch.matmul(rows, matrices)
    return torch.matmul(functional.pad(rows, (0, 0, 0, missing)), matrices)[..., :-missing, :]


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
        module.layer_idx,
        query,
        key,
        value,
        scale=scale,
        window=sliding_window,
        softcap=softcap,
    )
    return output, None


AttentionInterface.register(NAME, _slot_attention)  # pyright: ignore[reportUnknownMemberType]
