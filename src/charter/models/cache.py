"""The keys and values of rows that are being written: grown, dropped and joined without waste.

`DynamicCache` copies everything at every token. Here full-attention layers keep room for more.
"""

# pyright: reportUnknownMemberType=false
# transformers types its caches only in part.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 64
"""Storage grows by so many keys at a time."""


class RoomyLayer(DynamicLayer):
    """A layer of full attention: `keys` and `values` are views of storage with room to grow."""

    def __init__(self) -> None:
        super().__init__()
        self._stored: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The keys and values so far, with these behind them."""
        rows, _, added, _ = key_states.shape
        past = self.get_seq_length()
        length = past + added
        if self._stored is None or length > self._stored[0].shape[2]:
            self._grow(key_states, value_states, length=length)
        assert self._stored is not None
        keys, values = self._stored
        keys[:rows, :, past:length] = key_states
        values[:rows, :, past:length] = value_states
        self.keys, self.values = keys[:rows, :, :length], values[:rows, :, :length]
        return self.keys, self.values

    @property
    def views(self) -> tuple[Tensor, Tensor]:
        """The keys and values so far."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def keep(self, order: Sequence[int]) -> None:
        """Row `order[i]` takes place i; places behind the order fall away."""
        if self._stored is None:  # a layer that uses another's keys
            return
        moved = [place for place, row in enumerate(order) if place != row]
        rows, length = len(order), self.get_seq_length()
        for stored in self._stored:
            if moved:
                stored[moved] = stored[[order[place] for place in moved]]
        self.keys, self.values = (stored[:rows, :, :length] for stored in self._stored)

    def join(self, others: Sequence[RoomyLayer]) -> None:
        """Take the others' rows behind these; all have the same length."""
        views = [layer.views for layer in (self, *others)]
        self._stored = torch.cat([keys for keys, _ in views]), torch.cat([vs for _, vs in views])
        self.keys, self.values = self._stored

    def _grow(self, keys: Tensor, values: Tensor, *, length: int) -> None:
        room = (length // _ROOM + 1) * _ROOM
        grown = tuple(
            states.new_zeros(*states.shape[:2], room, states.shape[3]) for states in (keys, values)
        )
        if self._stored is None:
            self.lazy_initialization(keys, values)
        else:
            for new, past in zip(grown, self.views, strict=True):
                new[:, :, : past.shape[2]] = past
        self._stored = grown[0], grown[1]


def empty_cache(config: Any) -> DynamicCache:
    """A cache for a model of this configuration, roomy where its layers allow."""
    cache = DynamicCache(config=config)
    cache.layers = [
        RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def keep_rows(cache: DynamicCache, order: Sequence[int]) -> None:
    """Row `order[i]` takes place i; places behind the order fall away."""
    index: Tensor | None = None
    for layer in cache.layers:
        if isinstance(layer, RoomyLayer):
            layer.keep(order)
        else:
            index = torch.tensor(order) if index is None else index
            layer.reorder_cache(cast("torch.LongTensor", index))


def can_join(cache: DynamicCache) -> bool:
    """Whether other rows may be taken in: not where a layer keeps a window or a state instead."""
    return all(isinstance(layer, RoomyLayer) for layer in cache.layers)


def join_rows(cache: DynamicCache, others: Sequence[DynamicCache]) -> None:
    """Take the rows of other caches of the same length behind this cache's rows."""
    for layer, *rest in zip(cache.layers, *(other.layers for other in others), strict=True):
        layer.join(rest)
