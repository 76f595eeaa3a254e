"""Logits only where a token is supervised.

The output head is the widest matrix of a small model, and most positions belong to prompts. So the
head is shown the supervised positions alone; everything else, scaling and soft-capping of logits
included, stays the model's own forward pass.

Axes: B rows, T positions, S supervised positions, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from charter.learning.batches import Batch, bare

Logits = Callable[[nn.Module, Batch], Tensor]
"""Gives `logits_SV` of a batch under a causal language model."""

_log = logging.getLogger(__name__)


def all_positions(model: nn.Module, batch: Batch) -> Tensor:
    """Logits computed everywhere, then read where supervised: the plain way, in shape [S, V]."""
    return model(input_ids=batch.ids_BT, use_cache=False).logits[batch.supervised_BT]


def supervised_positions(model: nn.Module, batch: Batch) -> Tensor:
    """Logits of a model that names its output head, which runs at supervised positions only.

    The head is reached by a hook rather than called by hand: a wrapper around the model (data
    parallel, autocast, LoRA) acts in *its* forward, which has to be the one that is called.
    """
    head = _head(model)
    assert head is not None

    def keep_supervised(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0][batch.supervised_BT], *inputs[1:])

    handle = head.register_forward_pre_hook(keep_supervised)
    try:
        return model(input_ids=batch.ids_BT, use_cache=False).logits
    finally:
        handle.remove()


def fastest_logits(model: nn.Module, *, probe: Batch) -> Logits:
    """The cheaper way, if on `probe` it gives what the plain one gives; else the plain one."""
    if _head(model) is None:
        _log.warning("the model names no output head: logits are computed at every position")
        return all_positions
    was_training = model.training
    model.eval()
    with torch.no_grad():
        plain_SV = all_positions(model, probe)
        agree = _agree(model, probe, plain_SV)
    model.train(was_training)
    if agree:
        return supervised_positions
    _log.warning(
        "logits at supervised positions differ from the model's own: "
        "they are computed at every position, which takes more time and memory"
    )
    return all_positions


def _head(model: nn.Module) -> nn.Module | None:
    """What turns hidden states into logits."""
    return cast("Any", bare(model)).get_output_embeddings()


def _agree(model: nn.Module, probe: Batch, plain_SV: Tensor) -> bool:
    try:
        fast_SV = supervised_positions(model, probe)
    except (RuntimeError, IndexError):  # the model's forward counts on all positions' shape
        return False
    if fast_SV.shape != plain_SV.shape:
        return False
    # Other shapes take other kernels, so equality is up to rounding in the model's precision.
    tolerance = torch.finfo(precision_of(model)).eps ** 0.5 * plain_SV.abs().max()
    return bool(torch.all((fast_SV - plain_SV).abs() <= tolerance))


def precision_of(model: nn.Module) -> torch.dtype:
    """What a model computes in, at the most exact.

    On a GPU training runs under bfloat16 autocast, whatever the weights are kept in.
    """
    weights = next(model.parameters())
    return weights.dtype if weights.device.type == "cpu" else torch.bfloat16
