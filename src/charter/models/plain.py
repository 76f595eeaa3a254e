"""One call after the other, by the model's own cache: for models whose state slots cannot keep."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

from charter.models.calls import Call, Weighing, Writing, settle
from charter.models.network import finite
from charter.models.sampling import draw, uniforms


class PlainLoop:
    """A worker for any causal language model; a step reads one prompt or writes one token."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._waiting: deque[Call] = deque()
        self._current: Writing | None = None
        self._cache: Any = None
        self._unread: list[int] = []

    @property
    def capacity(self) -> int:
        """See `Worker.capacity`."""
        return 1

    @property
    def busy(self) -> bool:
        """See `Worker.busy`."""
        return self._current is not None or bool(self._waiting)

    def add(self, call: Call) -> None:
        """See `Worker.add`."""
        self._waiting.append(call)

    def restart(self, *, capacity: int) -> None:
        """See `Worker.restart`."""
        del capacity
        if self._current is not None:
            self._waiting.appendleft(self._current)
        self._current = self._cache = None

    def drop_all(self) -> None:
        """See `Worker.drop_all`."""
        self._waiting.clear()
        self._current = self._cache = None

    def step(self) -> int:
        """See `Worker.step`."""
        self._bring_on()
        return 0

    def _bring_on(self) -> None:
        if self._current is not None and self._current.result.cancelled():
            self._current = self._cache = None
        if self._current is None:
            call = self._waiting.popleft()
            if call.result.cancelled():
                return
            if isinstance(call, Weighing):
                settle(call.result, call.weigh(self._read(list(call.ids), keep=call.keep)))
                return
            self._current, self._cache, self._unread = call, None, call.ids
        self._write(self._current)

    def _write(self, writing: Writing) -> None:
        logits = self._read(self._unread, keep=1)
        drawn = draw(
            logits,
            uniforms=uniforms([writing.seed], [len(writing.token_ids)]),
            temperatures=[writing.sampling.temperature],
            top_ps=[writing.sampling.top_p],
            top_ks=[writing.sampling.top_k],
        )
        writing.take(drawn.ids[0], drawn.logprobs[0], near=drawn.near[0])
        self._unread = drawn.ids if self._cache is not None else writing.ids
        if writing.finished:
            self._current = self._cache = None
            settle(writing.result, None)

    def _read(self, ids: list[int], *, keep: int) -> Tensor:
        """Logits of the last `keep` positions x vocabulary."""
        output = self._model(
            input_ids=torch.tensor([ids], device=self._model.device),
            past_key_values=self._cache,
            use_cache=True,
        )
        if self._current is not None:  # some keep their state elsewhere, and are read anew
            self._cache = getattr(output, "past_key_values", None)
        return finite(output.logits[0, -keep:])
