"""A model spread over the processes of a launcher, for what one device cannot hold in training.

Each process keeps a share of every weight, of its gradient and of its moments. A layer's weights
are gathered where it computes, and dropped behind it: FSDP2, `torch.distributed.fsdp.fully_shard`.
Whoever computes with such a model waits for the others: all must call it as often as each other.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,  # pyright: ignore[reportUnknownVariableType]
)
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from charter.errors import ConfigError


def spread(
    model: PreTrainedModel, *, device: torch.device, precision: torch.dtype | None
) -> nn.Module:
    """A copy of the model, of which each process keeps a share on its device.

    The model itself stays whole, on the CPU, where the copy has none of its own.

    Args:
        model: What is to train: the same in every process.
        device: This process's own.
        precision: That layers compute in, under autocast; None: that of the weights. Autocast by
            itself would keep a copy of each layer's weights for the way back, which nobody drops.

    Raises:
        ConfigError: transformers does not say what the model's layers are.
    """
    cast("nn.Module", model).to("cpu")
    memo = {id(value): _sharing(value) for value in model.parameters()}
    copied: Any = copy.deepcopy(model, cast("dict[int, Any]", memo))
    layers = _layers(copied)
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    # Inputs stay as they are: what hides positions from attention is infinite in half precision.
    policy = MixedPrecisionPolicy(
        param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for layer in reversed(layers):  # what lies within another comes first
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    ends = (copied.get_input_embeddings(), copied.get_output_embeddings())
    if ends[1] is None or ends[0].weight is not ends[1].weight:
        for end in filter(None, ends):
            fully_shard(end, mesh=mesh)
    fully_shard(copied, mesh=mesh)
    return cast("nn.Module", copied)


def is_spread(model: nn.Module) -> bool:
    """Whether other processes keep the rest of its weights."""
    return isinstance(model, FSDPModule)


def shares(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a spread model, by name: of each, this process's share.

    What was read without gradients left the outermost ones gathered, in places of their own.
    """
    cast("FSDPModule", model).reshard()
    return dict(model.named_parameters())


def whole(value: Tensor) -> Tensor:
    """All of a value; where it is spread, every process must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def as_spread(value: Tensor, *, like: Tensor) -> Tensor:
    """A whole value that every process has, spread as another is, if that is."""
    if not isinstance(like, DTensor):
        return value
    # No source: every process cuts its share out of its own.
    return distribute_tensor(
        value.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def _sharing(value: nn.Parameter) -> nn.Parameter:
    """A parameter with the very numbers of another; a share of them is a copy."""
    return nn.Parameter(value.detach(), requires_grad=value.requires_grad)


def _layers(model: nn.Module) -> list[nn.Module]:
    names: frozenset[str] = frozenset(cast("Any", model)._no_split_modules or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    if not found:
        raise ConfigError(
            f"{type(model).__name__} cannot be spread: transformers does not say what its layers "
            "are, so that each process would gather it whole. Take `shard` out"
        )
    return found
