"""Keys and values of conversations, kept so that no token of theirs is read twice.

A slot holds one conversation. What many conversations begin with is stored once, as a `Prefix`, and
attended to by all of their rows together. Keys lie at their token's position (less the prefix), so
attention sees the same row of keys however a conversation came into its slot: read in one piece or
in several, copied from another slot, or continued a call later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from charter.models.calls import Call

BLOCK = 64
"""Prefixes are multiples of this; attention adds values up in blocks of as many keys."""
ALIGNED = 32
"""Rows of keys are padded to multiples of this: no vector instruction is cut short."""
_FIRST_LENGTH = 128

Stored = tuple[Tensor, Tensor]
"""Keys and values of one layer."""


@dataclass(eq=False)
class Prefix:
    """What several slots begin with."""

    ids: np.ndarray
    layers: dict[int, Stored]
    """By layer: key heads x tokens x head size."""
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


@dataclass(eq=False)
class Slots:
    """All slots of an engine, with room that grows as conversations do."""

    count: int
    most_bytes: float = math.inf
    """What keys and values may take; more raises `torch.OutOfMemoryError`."""
    slots: list[Slot] = field(init=False)
    layers: dict[int, Stored] = field(default_factory=dict[int, Stored])
    """By layer: slots x key heads x room x head size; made as layers first ask for it."""

    def __post_init__(self) -> None:
        self.slots = [Slot(index) for index in range(self.count)]
        self._tokens = np.full((self.count, _FIRST_LENGTH), -1, dtype=np.int64)
        self._room = _FIRST_LENGTH

    def tokens(self, slot: Slot, start: int, stop: int) -> list[int]:
        """The slot's tokens at these positions."""
        return self._tokens[slot.index, start:stop].tolist()

    def put(self, slot: Slot, ids: np.ndarray, *, known: int) -> None:
        """The slot holds these tokens from now on; the keys of the first `known` are right."""
        self._ensure(len(ids), own=len(ids) - slot.start)
        self._tokens[slot.index, : len(ids)] = ids
        self._tokens[slot.index, len(ids) :] = -1
        slot.length, slot.computed = len(ids), known

    def append(self, slot: Slot, id_: int) -> None:
        """One more token, to be read in the next step."""
        self._ensure(slot.length + 1, own=slot.length + 1 - slot.start)
        self._tokens[slot.index, slot.length] = id_
        slot.length += 1

    def common(self, ids: np.ndarray) -> np.ndarray:
        """How many tokens each slot has in common with these ids, from the first one on."""
        width = min(len(ids), self._tokens.shape[1])
        differs = self._tokens[:, :width] != ids[:width]
        return np.where(differs.any(1), differs.argmax(1), width)

    def copy(self, source: Slot, target: Slot, *, length: int) -> None:
        """Gives the target the source's first tokens with their keys and values."""
        target.prefix = source.prefix
        own = length - source.start
        for keys, values in self.layers.values():
            keys[target.index, :, :own] = keys[source.index, :, :own]
            values[target.index, :, :own] = values[source.index, :, :own]

    def rebase(self, slot: Slot, prefix: Prefix) -> None:
        """The slot begins with this longer prefix from now on: its rows join those of others."""
        first, own = len(prefix) - slot.start, slot.computed - len(prefix)
        for stored in self.layers.values():
            for each in stored:
                each[slot.index, :, :own] = each[slot.index, :, first : first + own].clone()
        slot.prefix = prefix

    def prefix_of(self, slot: Slot, *, length: int) -> Prefix:
        """The first `length` tokens of a slot, whose keys are computed, as a prefix of its own."""
        own, layers = length - slot.start, dict[int, Stored]()
        for index, (keys, values) in self.layers.items():
            stored = keys[slot.index, :, :own].clone(), values[slot.index, :, :own].clone()
            if slot.prefix:
                before = slot.prefix.layers[index]
                stored = torch.cat([before[0], stored[0]], 1), torch.cat([before[1], stored[1]], 1)
            layers[index] = stored
        return Prefix(self._tokens[slot.index, :length].copy(), layers)

    def layer(self, index: int, keys: Tensor) -> Stored:
        """A layer's storage, made like these keys (any x key heads x any x head size) at first."""
        if index not in self.layers:
            shape = self.count, keys.shape[1], self._room, keys.shape[3]
            self._check(more=2 * math.prod(shape) * keys.element_size())
            self.layers[index] = keys.new_zeros(shape), keys.new_zeros(shape)
        return self.layers[index]

    def _ensure(self, length: int, *, own: int) -> None:
        if length > self._tokens.shape[1]:
            more = np.full((self.count, _doubled(self._tokens.shape[1], length)), -1)
            more[:, : self._tokens.shape[1]] = self._tokens
            self._tokens = more
        if own > self._room:
            room = _doubled(self._room, own)
            self._check(more=self._bytes * (room // self._room - 1))
            self._room = room
            for index, stored in self.layers.items():
                self.layers[index] = (
                    _widened(stored[0], self._room),
                    _widened(stored[1], self._room),
                )

    @property
    def _bytes(self) -> int:
        return sum(each.nbytes for stored in self.layers.values() for each in stored)

    def _check(self, *, more: int) -> None:
        if self._bytes + more > self.most_bytes:
            raise torch.OutOfMemoryError(
                f"{self.count} slots of {self._room} and more tokens do not fit into memory"
            )


def _doubled(size: int, needed: int) -> int:
    while size < needed:
        size *= 2
    return size


def _widened(stored: Tensor, room: int) -> Tensor:
    wider = stored.new_zeros(*stored.shape[:2], room, stored.shape[3])
    wider[:, :, : stored.shape[2]] = stored
    return wider
