"""A loaded model as the engine sees it: rows of ids in, logits out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from charter.errors import BackendError
from charter.models.cache import empty_cache
from charter.models.reproducible import smallest_stable_batch

GRID = 32
"""Padded lengths are multiples of this. Finer would waste less on padding and batch fewer rows."""


def grid_length(length: int) -> int:
    """The length that a row of so many ids is padded to: a function of the row alone.

    Always longer than the row: attention takes another kernel, with other bits, for a batch that
    has no padding at all, and whether it has must not depend on a row's company.
    """
    return (length // GRID + 1) * GRID


class Network:
    """A causal language model, and what a batch must look like for it."""

    def __init__(self, model: Any) -> None:
        """Probes the model once.

        Raises:
            BackendError: Its rows cannot be padded.
        """
        accepted = inspect.signature(model.forward).parameters
        if not {"position_ids", "attention_mask", "past_key_values"} <= set(accepted):
            raise BackendError(
                f"{type(model).__name__} takes no padded rows with positions, so it cannot run in "
                "this process. Name a model with attention."
            )
        self._model = model
        self._cuts_logits = "logits_to_keep" in accepted
        self.smallest_batch = smallest_stable_batch(model)

    @property
    def on_cpu(self) -> bool:
        """Whether the model runs on the CPU."""
        return self._model.device.type == "cpu"

    def empty_cache(self) -> DynamicCache:
        """A cache that holds nothing yet."""
        return empty_cache(self._model.config)

    def read(
        self, rows: Sequence[Sequence[int]], *, keep: int, cache: DynamicCache | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read whole rows of one grid length.

        Args:
            rows: Ids; at least `smallest_batch` rows.
            keep: At how many last positions logits are wanted.
            cache: Where to keep keys and values, if the rows will be continued.

        Returns:
            Logits, rows x keep x vocabulary, and the mask of what is not padding.

        Raises:
            BackendError: The logits are not finite; likewise in `step`.
        """
        assert len(rows) >= self.smallest_batch, len(rows)
        length = grid_length(len(rows[0]))
        padding = [length - len(row) for row in rows]
        ids = [[0] * missing + list(row) for missing, row in zip(padding, rows, strict=True)]
        first = torch.tensor(padding, device=self._model.device)[:, None]
        mask = (torch.arange(length, device=self._model.device) >= first).long()
        logits = self._logits(torch.tensor(ids), mask=mask, keep=keep, cache=cache)
        return logits, mask

    def step(self, ids: Sequence[int], *, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Logits, rows x vocabulary, after one more id for each row; `mask` includes it."""
        column = torch.tensor(ids)[:, None]
        return self._logits(column, mask=mask, keep=1, cache=cache)[:, -1]

    def _logits(
        self, ids: Tensor, *, mask: Tensor, keep: int, cache: DynamicCache | None
    ) -> Tensor:
        positions = (mask.cumsum(-1) - 1).clamp_(min=0)[:, -ids.shape[1] :]
        cut = {"logits_to_keep": keep} if self._cuts_logits else {}
        output = self._model(
            input_ids=ids.to(mask.device),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            **cut,
        )
        logits = output.logits[:, -keep:]
        if not logits.amax(-1).isfinite().all():
            raise BackendError(
                "the model's logits are not finite: its weights are damaged, or too large for "
                f"{logits.dtype}. Check them, or set its `dtype` to float32."
            )
        return logits
