"""A loaded model as the engine sees it: packed rows of ids in, logits out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from charter.errors import BackendError
from charter.models.attention import NAME, Part, Step, padded, running
from charter.models.reproducible import smallest_stable_batch
from charter.models.slots import Slots

_TOLERANCE = {torch.float32: 1e-3, None: 0.2}
"""By dtype, of logits in units of their standard deviation: far below what another mask does."""


class Network:
    """A causal language model whose attention can be sent to slots."""

    def __init__(self, model: Any) -> None:
        """Probes the model once for how few rows keep their bits."""
        self._model = model
        self._smallest = smallest_stable_batch(model)

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
        parts, ids, positions, slot = list[Part](), list[int](), list[int](), list[int]()
        for index, row in enumerate(rows):
            places = list(range(len(row)))
            parts.append(
                Part(
                    rows=slice(len(ids), len(ids) + len(row)),
                    slots=slice(index, index + 1),
                    positions=torch.tensor([places], device=self.device),
                    places=None,
                    prefix=None,
                    width=padded(len(row)),
                )
            )
            ids, positions, slot = ids + row, positions + places, slot + [index] * len(row)
        where = torch.tensor(slot, device=self.device)
        step = Step(
            Slots(len(rows)), parts, slot=where, place=torch.tensor(positions, device=self.device)
        )
        try:
            packed = self.run(ids, positions, step, keep=range(len(ids))).float()
        except (TypeError, AttributeError, RuntimeError, IndexError, KeyError):
            return False  # another interface than ours
        plain = torch.cat([self._plain(row) for row in rows]).float()
        tolerance = _TOLERANCE[plain.dtype if self._model.dtype == torch.float32 else None]
        return bool((packed - plain).abs().max() <= tolerance * plain.std().clamp(min=1e-6))

    def _plain(self, row: list[int]) -> Tensor:
        ids = torch.tensor([row], device=self.device)
        return self._model(input_ids=ids, use_cache=False).logits[0]

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

    def run(
        self, ids: Sequence[int], positions: Sequence[int], step: Step, *, keep: Sequence[int]
    ) -> Tensor:
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
        config, device = self._model.config, self.device
        before = config._attn_implementation
        config._attn_implementation = NAME
        try:
            with running(step):
                output = self._model(
                    input_ids=torch.tensor([ids], device=device),
                    position_ids=torch.tensor([positions], device=device),
                    use_cache=False,
                    logits_to_keep=torch.tensor(keep, dtype=torch.long, device=device),
                )
        finally:
            config._attn_implementation = before
        return finite(output.logits[0])

    @property
    def smallest_step(self) -> int:
        """The rows that a step needs for each to have the bits that it has in a large one."""
        return self._smallest


def finite(logits: Tensor) -> Tensor:
    """The logits, if they are numbers.

    Raises:
        BackendError: They are not.
    """
    if logits.numel() and not logits.amax(-1).isfinite().all():
        raise BackendError(
            "the model's logits are not finite: its weights are damaged, or too large for "
            f"{logits.dtype}. Check them, or set its `dtype` to float32."
        )
    return logits
