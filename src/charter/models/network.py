"""A loaded model as the engine sees it: packed rows of ids in, logits out."""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, cast

import psutil
import torch
from torch import Tensor

from charter.errors import BackendError
from charter.models.attention import NAME, Chunk, Group, Step, padded, running
from charter.models.decoder import Decoder
from charter.models.products import Products
from charter.models.reproducible import smallest_stable_batch
from charter.models.slots import Slots

_TOLERANCE = {torch.float32: 1e-3, None: 0.2}
"""By dtype, of logits in units of their standard deviation: far below what another mask does."""


class Network:
    """A causal language model whose attention can be sent to slots."""

    def __init__(self, model: Any) -> None:
        """Probes the model once for how few rows keep their bits."""
        self._model = model
        # Two engines may run one model, and each sends its attention elsewhere.
        kept = cast("dict[str, threading.Lock]", vars(model))
        self._lock = kept.setdefault("_charter_lock", threading.Lock())
        self._products = Products(model)
        self._decoder = Decoder.of(model, self._products)
        with self._lock, self._products.applied():
            self._smallest = smallest_stable_batch(model)
        if self._decoder:
            self._products.weights_changed()  # it lays out its own

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self._model.device

    @torch.inference_mode()
    def packs_exactly(self) -> bool:
        """Whether packed rows give the logits of a plain pass; tried on two short rows."""
        if not self._may_pack():
            return False
        vocabulary = self._model.get_input_embeddings().num_embeddings
        rows = [[(7919 * i + length) % vocabulary for i in range(length)] for length in (37, 2)]
        ids = torch.tensor([id_ for row in rows for id_ in row], device=self.device)
        at = torch.tensor([place for row in rows for place in range(len(row))], device=self.device)
        slot = torch.tensor([i for i, row in enumerate(rows) for _ in row], device=self.device)
        ends = list(accumulate(map(len, rows), initial=0))
        parts = [
            Chunk(rows=slice(*ends[i : i + 2]), keys=slice(0, padded(len(row))), source=i)
            for i, row in enumerate(rows)
        ]
        group = Group(rows=slice(0, len(ids)), parts=parts, shared=0)
        step = Step(Slots(len(rows)), [group], positions=at, slot=slot, place=at)
        try:
            packed = self.run(ids, at, step, keep=range(len(ids))).float()
        except (TypeError, AttributeError, RuntimeError, IndexError, KeyError):
            return False  # another interface than ours
        plain = torch.cat([self._plain(row) for row in rows]).float()
        tolerance = _TOLERANCE[plain.dtype if self._model.dtype == torch.float32 else None]
        return bool((packed - plain).abs().max() <= tolerance * plain.std().clamp(min=1e-6))

    def _plain(self, row: list[int]) -> Tensor:
        ids = torch.tensor([row], device=self.device)
        return self._model(input_ids=ids, use_cache=False).logits[0]

    def free_bytes(self) -> float:
        """Memory that is free where the model runs; unknown counts as unlimited."""
        match self.device.type:
            case "cuda":
                return torch.cuda.mem_get_info(self.device)[0]
            case "cpu":
                return psutil.virtual_memory().available
            case _:
                return math.inf

    def _may_pack(self) -> bool:
        """Whether all layers attend, by the interface that slots need."""
        accepted = inspect.signature(self._model.forward).parameters
        config = self._model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ())
        return (
            {"position_ids", "logits_to_keep"} <= set(accepted)
            and bool(getattr(self._model, "_supports_attention_backend", False))
            and kinds <= {"full_attention", "sliding_attention"}
            and not getattr(config, "num_kv_shared_layers", 0)
        )

    def run(self, ids: Tensor, positions: Tensor, step: Step, *, keep: Sequence[int]) -> Tensor:
        """One packed pass.

        Args:
            ids: One for each row of the step.
            positions: Likewise, each in its conversation.
            step: What the rows attend to.
            keep: The rows whose logits are wanted.

        Returns:
            Logits, kept rows x vocabulary.

        Raises:
            BackendError: They are not finite.
        """
        with self._lock:
            if self._decoder and self._decoder.untouched:
                return finite(self._decoder.run(ids, positions, step, keep=keep))
            with (
                _attending_by(NAME, self._model.config),
                self._products.applied(),
                running(step),
            ):
                output = self._model(
                    input_ids=ids[None],
                    position_ids=positions[None],
                    use_cache=False,
                    logits_to_keep=torch.tensor(keep, dtype=torch.long, device=self.device),
                )
            return finite(output.logits[0])

    def weights_changed(self) -> None:
        """Drop what was made from older weights."""
        self._products.weights_changed()
        if self._decoder:
            self._decoder.weights_changed()

    @property
    def smallest_step(self) -> int:
        """The rows that a step needs for each to have the bits that it has in a large one."""
        return self._smallest


@contextmanager
def _attending_by(name: str, config: Any) -> Generator[None]:
    """The attention that models of this configuration use meanwhile; training needs its own."""
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def finite(logits: Tensor) -> Tensor:
    """The logits, if they are numbers.

    Raises:
        BackendError: They are not.
    """
    if logits.numel() and not math.isfinite(logits.amax(-1).sum(dtype=torch.float32)):
        raise BackendError(
            "the model's logits are not finite: its weights are damaged, or too large for "
            f"{logits.dtype}. Check them, or set its `dtype` to float32."
        )
    return logits
