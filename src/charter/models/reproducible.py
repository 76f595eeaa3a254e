"""Arithmetic whose bits do not depend on what else is computed beside it.

A row of a batch must come out the same whoever shares the batch. On CPU three things work against
that: matrix products that pick another order of summation for small batches, threads that cut a
tensor where vector instructions do not end, and attention that takes another kernel where a batch
has no padding (see `batching.grid_length` for that one).
"""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

_log = logging.getLogger(__name__)

_PROBED_ROWS = (1, 2, 4, 8, 16, 32)
_REFERENCE_ROWS = 64
_VECTORS = 4
_setting = threading.Lock()


def sum_in_fixed_order() -> None:
    """Ask for matrix products whose bits do not depend on the batch or the number of threads.

    MKL calls that strict conditional numerical reproducibility, and reads the wish once: at the
    process's first matrix product. It costs nothing measurable from 64 rows on.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if capability in {"AVX2", "AVX512"}:
        os.environ.setdefault("MKL_CBWR", f"{capability},STRICT")


def power_of_two(threads: int) -> int:
    """So many threads, or the next power of two below.

    Other numbers cut tensors in the middle of a vector instruction. What remains of a vector is
    computed by other code, which may differ in the last bit.
    """
    return 1 << (threads.bit_length() - 1)


def use_threads(count: int) -> None:
    """So many threads for what this thread computes from now on.

    PyTorch gives threads that begin later the number that was set last, by whom it may be. So
    another thread looks up what that is, and puts it back.
    """
    if count == torch.get_num_threads():
        return
    with _setting, ThreadPoolExecutor(max_workers=1) as newcomer:
        usual = newcomer.submit(torch.get_num_threads).result()
        torch.set_num_threads(count)
        newcomer.submit(torch.set_num_threads, usual).result()


def whole_vectors(threads: int | None = None) -> int:
    """Rows of a step come in multiples of this, so that each thread's share is whole vectors.

    PyTorch takes 64 numbers at a time and what is left one by one, with another `exp`. Layers are
    multiples of 16 wide. None: the threads that this thread uses.
    """
    return _VECTORS * (torch.get_num_threads() if threads is None else threads)


@torch.inference_mode()
def smallest_stable_batch(model: Any) -> int:
    """The rows that a batch needs for each row to have the bits it has in a large batch.

    1 where `sum_in_fixed_order` was heard; elsewhere found by trying. On an accelerator 1 as well:
    no promise is made there.
    """
    if model.device.type != "cpu":
        return 1
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = (torch.arange(_REFERENCE_ROWS) * 7919 % vocabulary)[:, None]
    reference = _logits(model, ids)
    for rows in _PROBED_ROWS:
        if torch.equal(_logits(model, ids[:rows]), reference[:rows]):
            return rows
    _log.warning(
        "on this processor a batch's size changes the last bits of its rows: sampled tokens may "
        "differ between runs of another capacity"
    )
    return _PROBED_ROWS[-1]


def _logits(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits[:, -1]
