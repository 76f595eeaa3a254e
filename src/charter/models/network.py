"""A loaded model as the engine sees it: packed rows of ids in, logits out."""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, cast

import psutil
import torch
from torch import Tensor

from charter.errors import BackendError
from charter.models.attention import NAME, Chunk, Group, Step, padded, running
from charter.models.decoder import Decoder
from charter.models.products import Products
from charter.models.reproducible import (
    power_of_two,
    smallest_stable_batch,
    use_threads,
    whole_vectors,
)
from charter.models.slots import Slots

_SMALL = 2**26
"""Bytes of weights up to which each thread may read all of them: caches hold them."""
_MOST_PASSES = 4
"""Side by side: beyond, they wait for each other to get at the interpreter."""
_MANY_ROWS = 128
"""Of a pass that is alone: from here on it does better with all threads."""
_TOLERANCE = {torch.float32: 1e-3, None: 0.2}
"""By dtype, of logits in units of their standard deviation: far below what another mask does."""


@dataclass(frozen=True)
class Pass:
    """Rows that the model reads at once."""

    ids: Tensor
    """One for each row."""
    positions: Tensor
    """Likewise, each in its conversation."""
    step: Step
    """What the rows attend to."""
    keep: Sequence[int]
    """The rows whose logits are wanted."""


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
        self._threads = power_of_two(torch.get_num_threads())
        decoder = self._decoder
        cut = decoder is not None and decoder.side_by_side and decoder.nbytes <= _SMALL
        self._passes = min(self._threads, _MOST_PASSES) if cut else 1
        self._helpers = ThreadPoolExecutor(
            max_workers=_MOST_PASSES,
            thread_name_prefix="pass",
            initializer=partial(use_threads, self._threads // self._passes),
        )

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
            packed = self.run(Pass(ids, at, step, keep=range(len(ids)))).float()
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
                # What torch holds and does not use is free too, though not to the driver.
                held = torch.cuda.memory_reserved(self.device)
                used = torch.cuda.memory_allocated(self.device)
                return torch.cuda.mem_get_info(self.device)[0] + held - used
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

    @property
    def passes(self) -> int:
        """Into how many passes a step is best cut, to be run side by side."""
        return self._passes if self._decoder and self._decoder.untouched else 1

    @property
    def multiple(self) -> int:
        """Rows of a pass come in multiples of this; see `whole_vectors`."""
        return whole_vectors(self._threads) if self.device.type == "cpu" else 1

    def run_all(self, passes: Sequence[Pass]) -> list[Tensor]:
        """Packed passes side by side, on as many threads as they are; see `run`.

        Few rows of small matrices are multiplied on one thread as fast as on two, so threads do
        better with a pass each. No pass may need keys that another one makes. The thread that asks
        uses as many threads as a pass does from then on.
        """
        wide = len(passes) == 1 and (self.passes == 1 or len(passes[0].ids) >= _MANY_ROWS)
        use_threads(self._threads if wide else self._threads // self._passes)
        if len(passes) == 1:
            return [self.run(passes[0])]
        assert self._decoder
        self._decoder.prepare()
        others: list[Future[Tensor]] = []
        try:
            others.extend(self._helpers.submit(self._run_decoder, one) for one in passes[1:])
            first = self._run_decoder(passes[0])
        finally:
            wait(others)  # they work in slots that may be forgotten next
        return [first, *(other.result() for other in others)]

    def _run_decoder(self, one: Pass) -> Tensor:
        assert self._decoder
        with torch.inference_mode():
            return finite(self._decoder.run(one.ids, one.positions, one.step, keep=one.keep))

    def run(self, one: Pass) -> Tensor:
        """One packed pass.

        Returns:
            Logits, kept rows x vocabulary.

        Raises:
            BackendError: They are not finite.
        """
        ids, positions, step, keep = one.ids, one.positions, one.step, one.keep
        with self._lock:
            if self._decoder and self._decoder.untouched:
                return self._run_decoder(one)
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
