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

from charter.models.slots import ALIGNED, BLOCK, Prefix, Slots

NAME = "charter_slots"
_FEWEST_ROWS = 4
"""Of a product: fewer are multiplied by other code, to other bits."""


@dataclass(frozen=True)
class Chunk:
    """Rows that read the same keys: those of their one slot, or the prefix of several."""

    rows: slice
    """Where they lie in their group."""
    keys: slice
    """Which of the group's keys they read."""
    source: int | Prefix
    """Whose keys: a slot's own, or all of a prefix."""

    def read(self, slots: Slots, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values, each of key heads x keys x size."""
        if isinstance(self.source, Prefix):
            keys, values = self.source.layers[layer]
        else:
            width = self.keys.stop - self.keys.start
            keys, values = slots.layers[layer][:, self.source, :, :width]
        return keys, values

    def gathered(self, group: Tensor) -> Tensor:
        """Its rows of a group's (key heads x rows x queries x any), to be multiplied."""
        mine = group[:, self.rows].flatten(1, 2)
        missing = _FEWEST_ROWS - mine.shape[1]
        return functional.pad(mine, (0, 0, 0, missing)) if missing > 0 else mine

    def scattered(self, made: Tensor, group: Tensor) -> None:
        """Writes what became of them to their places in the group's."""
        target = group[:, self.rows]
        target.copy_(made[:, : target.shape[1] * target.shape[2]].view(target.shape))


@dataclass(frozen=True)
class Singles:
    """One row of each of several slots, which read their keys in one product."""

    rows: slice
    """Where they lie in their group."""
    keys: slice
    """Which of the group's keys they read; as many as the longest slot has."""
    slots: slice | Tensor
    places: Tensor | None
    """Each row's slot among these, where slots between them have no row; None: all have one."""
    count: int
    """How many slots."""

    def read(self, slots: Slots, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values, of heads of all slots x keys x size; copies, where slots lie apart."""
        width = self.keys.stop - self.keys.start
        keys, values = slots.layers[layer][:, self.slots, :, :width].flatten(1, 2)
        return keys, values

    def gathered(self, group: Tensor) -> Tensor:
        """See `Chunk.gathered`; a slot without a row has zeros."""
        heads, _, queries, size = group.shape
        mine = group.new_zeros(self.count, heads, max(queries, _FEWEST_ROWS), size)
        rows = group[:, self.rows].transpose(0, 1)
        if self.places is None:
            mine[:, :, :queries] = rows
        else:
            mine[:, :, :queries].index_copy_(0, self.places, rows)
        return mine.flatten(0, 1)

    def scattered(self, made: Tensor, group: Tensor) -> None:
        """See `Chunk.scattered`."""
        heads, _, queries, _ = group.shape
        by_slot = made.view(self.count, heads, *made.shape[1:])[:, :, :queries]
        if self.places is not None:
            by_slot = by_slot.index_select(0, self.places)
        group[:, self.rows] = by_slot.transpose(0, 1)


Part = Chunk | Singles


@dataclass(frozen=True)
class Group:
    """Rows of a step that begin with one prefix, or with none."""

    rows: slice
    """Where they lie in the step."""
    parts: Sequence[Part]
    """Who reads which keys, in order of position: what all rows read comes first."""
    shared: int
    """Keys that all rows read."""

    @property
    def keys(self) -> int:
        """Keys in all, as many as the row with the most has."""
        return max(part.keys.stop for part in self.parts)

    def unseen(self, positions: Tensor, *, window: int | None) -> Tensor:
        """Marks the last keys that a row must not see: rows x 1 x keys.

        Without a window these are own keys: a prefix precedes all rows.
        """
        first = self.shared if window is None else 0
        keys = torch.arange(first, self.keys, device=positions.device)
        at = positions[self.rows, None, None]
        unseen = keys > at
        return unseen if window is None else unseen | (keys <= at - window)


class Step:
    """One forward pass: where each row's keys go, and which rows attend to what."""

    def __init__(
        self,
        slots: Slots,
        groups: Sequence[Group],
        *,
        positions: Tensor,
        slot: Tensor,
        place: Tensor,
    ) -> None:
        """Of each row its position, its slot, and its key's place among the slot's own.

        The model may read more rows than these; what it makes of them is nobody's.
        """
        self._slots = slots
        self._groups = groups
        self._positions = positions
        self._slot = slot
        self._place = place
        self._unseen: dict[tuple[int, int | None], Tensor] = {}
        """By group and window."""
        self._lines: dict[tuple[int, int], Tensor] = {}
        """By key heads and room: where new keys and values go, as lines of all that is stored."""

    def attend(
        self,
        layer: int,
        queries: Tensor,
        new: Tensor,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        """Stores keys and values; gives what each row reads of its conversation's.

        Args:
            layer: Its number.
            queries: Rows x heads x size.
            new: Rows x keys, values x key heads x size.
            scale: What queries are multiplied by.
            window: How many positions a row sees, its own included; None: all.
            softcap: What scores are kept below.

        Returns:
            Rows x heads x size.
        """
        rows, _, heads, size = new.shape
        self._store(layer, new[: len(self._slot)])
        by_head = queries.reshape(rows, heads, -1, size).transpose(0, 1)
        exact = queries.dtype == torch.float32
        by_head = torch.mul(by_head, scale if exact else 1.0, out=queries.new_empty(by_head.shape))
        output = queries.new_zeros(rows, heads, by_head.shape[2], size, dtype=torch.float32)
        for number, group in enumerate(self._groups):
            if (number, window) not in self._unseen:
                self._unseen[number, window] = group.unseen(self._positions, window=window)
            _attend(
                [(part, *part.read(self._slots, layer)) for part in group.parts],
                by_head[:, group.rows],
                output[group.rows].transpose(0, 1),
                unseen=self._unseen[number, window],
                scale=None if exact else scale,
                softcap=softcap,
            )
        return output.view(rows, -1, size).to(queries.dtype)

    def _store(self, layer: int, new: Tensor) -> None:
        """Puts keys and values where they belong: whole lines, which is faster than by index."""
        stored = self._slots.layer(layer, new)
        kinds, slots, heads, room, size = stored.shape
        if (heads, room) not in self._lines:
            kind = torch.arange(kinds, device=new.device)[:, None]
            head = torch.arange(heads, device=new.device)
            line = (kind * slots + self._slot[:, None, None]) * heads + head
            self._lines[heads, room] = (line * room + self._place[:, None, None]).flatten()
        stored.view(-1, size).index_copy_(0, self._lines[heads, room], new.reshape(-1, size))


def _attend(
    parts: Sequence[tuple[Part, Tensor, Tensor]],
    queries: Tensor,
    output: Tensor,
    *,
    unseen: Tensor,
    scale: float | None,
    softcap: float | None,
) -> None:
    """Writes to `output` what a group's rows read, by each part's keys and values.

    Queries and output are key heads x rows x queries of each x size. Scores and sums are kept in
    float32 whatever the model's precision, and multiplied by `scale` where queries were not: some
    models have keys so large that scores rounded to bfloat16 are other scores. Values are added up
    block by block in order of position, whichever part a block belongs to.
    """
    keys_in_all = max(part.keys.stop for part, _, _ in parts)
    scores = output.new_empty(*queries.shape[:3], keys_in_all)
    for part, keys, _ in parts:
        made = _product(part.gathered(queries), keys.transpose(1, 2))
        part.scattered(made, scores[..., part.keys])
    if scale is not None:
        scores *= scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores[..., -unseen.shape[-1] :].masked_fill_(unseen, -torch.inf)
    weights = scores.softmax(-1).to(queries.dtype)
    for part, _, values in parts:
        # With one key head `sums` may lie in `output`, so nothing is added in place.
        mine, sums = part.gathered(weights[..., part.keys]), part.gathered(output)
        for start in range(0, values.shape[1], BLOCK):
            block = slice(start, start + BLOCK)
            sums = sums + _product(mine[..., block], values[:, block])
        part.scattered(sums, output)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Products of two batches of matrices, added up and left in float32."""
    if left.dtype == torch.float32:
        return torch.bmm(left, right)
    if left.is_cuda:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())


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
    step: Step = _running.step
    output = step.attend(
        module.layer_idx,
        query[0].transpose(0, 1),
        torch.stack((key[0], value[0])).permute(2, 0, 1, 3),
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
    )
    return output[None], None


AttentionInterface.register(NAME, _slot_attention)  # pyright: ignore[reportUnknownMemberType]
