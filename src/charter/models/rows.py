"""What one pass of the model reads: rows of several slots, put together, and shared out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from charter.models.attention import Chunk, Group, Part, Singles, Step, padded
from charter.models.network import Pass
from charter.models.slots import Prefix, Slot, Slots

_FEWEST_ROWS = 8
"""Of a pass: for fewer, a pass beside the others costs more than it saves."""


@dataclass(frozen=True)
class Reading:
    """Who reads how much in a pass."""

    decoded: Sequence[Slot]
    """These read the token that they wrote last."""
    chunks: Sequence[tuple[Slot, int]]
    """These read so many tokens of what they were asked."""

    def __len__(self) -> int:
        """Tokens in all."""
        return len(self.decoded) + sum(count for _, count in self.chunks)

    def __iter__(self) -> Iterator[tuple[Slot, int]]:
        """Each slot with its tokens."""
        yield from ((slot, 1) for slot in self.decoded)
        yield from self.chunks

    def shared_out(self, passes: int) -> list[Reading]:
        """The same in so many passes of about equal length, or in fewer; none is empty."""
        passes = max(1, min(passes, len(self) // _FEWEST_ROWS))
        chunks: list[list[tuple[Slot, int]]] = [[] for _ in range(passes)]
        loads = [0] * passes
        for chunk in sorted(self.chunks, key=lambda chunk: -chunk[1]):
            lightest = loads.index(min(loads))
            chunks[lightest].append(chunk)
            loads[lightest] += chunk[1]
        shares: list[Reading] = []
        left = list(self.decoded)
        for number in range(passes):
            # What is left, and what is loaded already, spread over the passes to come.
            even = (len(left) + sum(loads[number:])) / (passes - number)
            taken = len(left) if number == passes - 1 else max(0, round(even) - loads[number])
            shares.append(Reading(left[:taken], chunks[number]))
            left = left[taken:]
        return [share for share in shares if len(share)]


class Rows:
    """The rows of a pass as they are put together."""

    def __init__(self, slots: Slots, device: torch.device) -> None:
        """Of these slots, read on this device."""
        self._slots = slots
        self._device = device
        self.count = 0
        self.keep: list[int] = []
        """The rows whose logits are wanted."""
        self.owners: list[Slot] = []
        """Whose they are, each once."""
        self._columns: list[np.ndarray] = []
        """Ids, positions, slots and places among the slots' own keys x rows, piece by piece."""
        self._filling = 0
        self._groups: list[Group] = []

    @classmethod
    def of(cls, reading: Reading, slots: Slots, device: torch.device) -> Rows:
        """All rows of a reading."""
        rows = cls(slots, device)
        for prefix in {id(slot.prefix): slot.prefix for slot, _ in reading}.values():
            rows._add_group(
                prefix,
                [slot for slot in reading.decoded if slot.prefix is prefix],
                [(slot, count) for slot, count in reading.chunks if slot.prefix is prefix],
            )
        return rows

    def _add_group(
        self, prefix: Prefix | None, decoded: list[Slot], chunks: list[tuple[Slot, int]]
    ) -> None:
        """Rows of slots with one prefix: one row of each `decoded` one, and chunks of others."""
        first, shared = self.count, len(prefix) if prefix else 0
        parts = [self._decoded(decoded, shared=shared)] if decoded else list[Part]()
        parts += [self._chunk(slot, count, first=first, shared=shared) for slot, count in chunks]
        if prefix and parts:
            every = slice(0, self.count - first)
            parts.insert(0, Chunk(rows=every, keys=slice(0, shared), source=prefix))
        if parts:
            self._groups.append(Group(rows=slice(first, self.count), parts=parts, shared=shared))

    def _chunk(self, slot: Slot, count: int, *, first: int, shared: int) -> Chunk:
        start, stop = slot.computed, slot.computed + count
        rows = slice(self.count - first, self.count - first + count)
        self._add(np.full(count, slot.index), np.arange(start, stop), shared=shared)
        if stop == slot.length:
            self.keep += range(self.count - slot.keep, self.count)
            self.owners.append(slot)
        keys = slice(shared, shared + padded(stop - shared))
        return Chunk(rows=rows, keys=keys, source=slot.index)

    def _decoded(self, slots: list[Slot], *, shared: int) -> Singles:
        """Adds one row for each of these slots, which are in order."""
        indices = np.array([slot.index for slot in slots])
        positions = np.array([slot.computed for slot in slots])
        self.keep += range(self.count, self.count + len(slots))
        self.owners += slots
        self._add(indices, positions, shared=shared)
        low, high = int(indices[0]), int(indices[-1]) + 1
        dense = high - low <= 2 * len(slots)  # else copying the slots' keys is cheaper
        gaps = dense and high - low > len(slots)
        return Singles(
            rows=slice(0, len(slots)),
            keys=slice(shared, shared + padded(int(positions.max()) + 1 - shared)),
            slots=slice(low, high) if dense else self._tensor(indices),
            places=self._tensor(indices - low) if gaps else None,
            count=high - low if dense else len(slots),
        )

    def _add(self, slots: np.ndarray, positions: np.ndarray, *, shared: int) -> None:
        ids = self._slots.tokens(slots, positions)
        self._columns.append(np.stack((ids, positions, slots, positions - shared)))
        self.count += len(ids)

    def fill_up(self, count: int, *, multiple: int) -> None:
        """At least so many rows, in whole multiples: the last one again, for nobody."""
        self._filling = max(count - self.count, -self.count % multiple)
        self._columns.append(self._columns[-1][:, -1:].repeat(self._filling, 1))
        self.count += self._filling

    def laid_out(self) -> Pass:
        """The pass that reads them."""
        columns = self._tensor(np.concatenate(self._columns, 1))
        own = columns[:, : self.count - self._filling]
        return Pass(
            ids=columns[0],
            positions=columns[1],
            step=Step(self._slots, self._groups, positions=own[1], slot=own[2], place=own[3]),
            keep=self.keep,
        )

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=self._device)
