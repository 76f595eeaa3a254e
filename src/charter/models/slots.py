"""Keys and values of conversations, kept so that no token of theirs is read twice.

A slot holds one conversation. What many conversations begin with is stored once, as a `Prefix`, and
attended to by all of their rows together. Keys lie at their token's position (less the prefix), so
attention sees the same row of keys however a conversation came into its slot: read in one piece or
in several, copied from another slot, or continued a call later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from charter.models.calls import Call

BLOCK = 64
"""Prefixes are multiples of this; attention adds values up in blocks of as many keys."""
ALIGNED = 16
"""Rows of keys are padded to multiples of this: no vector instruction is cut short."""
_FIRST_LENGTH = 144


@dataclass(eq=False)
class Prefix:
    """What several slots begin with."""

    ids: np.ndarray
    layers: dict[int, Tensor]
    """By layer: keys, values x key heads x tokens x head size."""
    used: int = 0
    """The step that last used it."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(eq=False)
class Slot:
    """One conversation: its tokens up to `length`, with keys and values up to `computed`."""

    index: int
    call: Call | None = None
    prefix: Prefix | None = None
    length: int = 0
    computed: int = 0
    used: int = 0
    """The step that last used it."""

    @property
    def start(self) -> int:
        """The position of its first own key."""
        return 0 if self.prefix is None else len(self.prefix.ids)

    @property
    def keep(self) -> int:
        """At how many of the last positions its call wants logits."""
        return 0 if self.call is None else self.call.keep

    @property
    def pending(self) -> int:
        """Tokens that are still to be read."""
        return self.length - self.computed


@dataclass(frozen=True)
class Extents:
    """Which of their tokens' keys the slots have: one number for each slot."""

    start: np.ndarray
    """The position of its first own key."""
    computed: np.ndarray
    """Tokens whose keys are there."""
    coming: np.ndarray
    """Tokens whose keys will be there, as its call is worked on; 0 without a call."""


@dataclass(eq=False)
class Slots:
    """All slots of an engine, with room that grows as conversations do."""

    count: int
    most_bytes: float = math.inf
    """What keys and values may take; more raises `torch.OutOfMemoryError`."""
    slots: list[Slot] = field(init=False)
    layers: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    """By layer: keys, values x slots x key heads x room x head size."""

    def __post_init__(self) -> None:
        self.slots = [Slot(index) for index in range(self.count)]
        self._tokens = np.full((self.count, _FIRST_LENGTH), -1, dtype=np.int64)
        self._room = _FIRST_LENGTH

    def tokens(self, slots: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Each of these slots' token at each of these positions."""
        return self._tokens[slots, positions]

    def put(self, slot: Slot, ids: np.ndarray, *, known: int) -> None:
        """The slot holds these tokens from now on; the keys of the first `known` are right."""
        self._ensure(len(ids), own=len(ids) - slot.start)
        self._tokens[slot.index, : len(ids)] = ids
        self._tokens[slot.index, len(ids) :] = -1
        slot.length, slot.computed = len(ids), known

    def append(self, slots: Sequence[Slot], ids: Sequence[int]) -> None:
        """One more token for each, to be read in the next step."""
        for slot in slots:
            self._ensure(slot.length + 1, own=slot.length + 1 - slot.start)
        self._tokens[[slot.index for slot in slots], [slot.length for slot in slots]] = ids
        for slot in slots:
            slot.length += 1

    def extents(self) -> Extents:
        """What all slots have now."""
        rows = [(slot.start, slot.computed, slot.length if slot.call else 0) for slot in self.slots]
        return Extents(*np.array(rows).T)

    def common(self, ids: np.ndarray) -> np.ndarray:
        """How many tokens each slot has in common with these ids, from the first one on."""
        width = min(len(ids), self._tokens.shape[1])
        differs = self._tokens[:, :width] != ids[:width]
        return np.where(differs.any(1), differs.argmax(1), width)

    def copy(self, source: Slot, target: Slot, *, length: int) -> None:
        """Gives the target the source's first tokens with their keys and values."""
        target.prefix = source.prefix
        own = length - source.start
        for stored in self.layers.values():
            stored[:, target.index, :, :own] = stored[:, source.index, :, :own]

    def rebase(self, slot: Slot, prefix: Prefix) -> None:
        """The slot begins with this longer prefix from now on: its rows join those of others."""
        first, own = len(prefix) - slot.start, slot.computed - len(prefix)
        for stored in self.layers.values():
            mine = stored[:, slot.index]
            mine[:, :, :own] = mine[:, :, first : first + own].clone()
        slot.prefix = prefix

    def prefix_of(self, slot: Slot, *, length: int) -> Prefix:
        """The first `length` tokens of a slot, whose keys are computed, as a prefix of its own."""
        own, layers = length - slot.start, dict[int, Tensor]()
        for index, stored in self.layers.items():
            mine = stored[:, slot.index, :, :own]
            before = [slot.prefix.layers[index]] if slot.prefix else []
            layers[index] = torch.cat([*before, mine], 2)
        return Prefix(self._tokens[slot.index, :length].copy(), layers)

    def layer(self, index: int, new: Tensor) -> Tensor:
        """A layer's storage, made at first for such keys and values as these.

        Args:
            index: The layer's.
            new: Any x keys, values x key heads x head size.
        """
        if index not in self.layers:
            shape = 2, self.count, new.shape[2], self._room, new.shape[3]
            self._check(more=math.prod(shape) * new.element_size())
            self.layers[index] = new.new_zeros(shape)
        return self.layers[index]

    def _ensure(self, length: int, *, own: int) -> None:
        if length > self._tokens.shape[1]:
            more = np.full((self.count, _grown(self._tokens.shape[1], length)), -1)
            more[:, : self._tokens.shape[1]] = self._tokens
            self._tokens = more
        if own > self._room:
            room = _grown(self._room, own)
            self._check(more=self._bytes // self._room * (room - self._room))
            self._room = room
            for index, stored in self.layers.items():
                self.layers[index] = _widened(stored, self._room)

    @property
    def _bytes(self) -> int:
        return sum(stored.nbytes for stored in self.layers.values())

    def _check(self, *, more: int) -> None:
        if self._bytes + more > self.most_bytes:
            raise torch.OutOfMemoryError(
                f"{self.count} slots of {self._room} and more tokens do not fit into memory"
            )


def _grown(size: int, needed: int) -> int:
    """By about half, to an odd multiple of `ALIGNED`.

    Distances that are powers of two would send all slots' keys to a few sets of the cache.
    """
    return max(size + size // 2, needed + ALIGNED) // (2 * ALIGNED) * 2 * ALIGNED + ALIGNED


def _widened(stored: Tensor, room: int) -> Tensor:
    wider = stored.new_zeros(*stored.shape[:3], room, stored.shape[4])
    wider[..., : stored.shape[3], :] = stored
    return wider
