"""A model in training: its gradients, its steps, its loss on items it does not learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import PreTrainedModel

from charter.learning.batches import Names, plan_epoch
from charter.learning.processes import Processes, join_processes
from charter.learning.shards import as_spread, is_spread, shares, spread, whole
from charter.learning.task import Task

_SHORT = 512
"""Tokens up to which the scores of all pairs are cheap to hold."""


@dataclass(frozen=True)
class Learner:
    """A model, with what moves it."""

    processes: Processes
    model: nn.Module
    """As accelerate wraps it, or a copy that is spread over the processes."""
    optimizer: AdamW


def prepare(
    model: PreTrainedModel, *, weight_decay: float, longest: int, shard: bool = False
) -> Learner:
    """The model where it can train, wrapped for precision and processes, with its optimizer.

    Args:
        model: What is to learn; `finish` gives it what was learnt.
        weight_decay: Of the optimizer.
        longest: Tokens of the longest row that it will read.
        shard: Whether each process is to keep a share of the weights alone, where there are
            several.
    """
    processes = join_processes()
    if processes.device.type == "cpu":
        _attend_quickly(model, longest=longest)
    if shard and processes.num_processes > 1:
        precision = None if processes.device.type == "cpu" else torch.bfloat16
        wrapped = spread(model, device=processes.device, precision=precision)
    else:
        wrapped = processes.prepare(model)
    return Learner(
        processes=processes,
        model=wrapped,
        optimizer=_optimizer(wrapped, weight_decay=weight_decay),
    )


def _attend_quickly(model: PreTrainedModel, *, longest: int) -> None:
    """Attention by plain matrix products, where no sequence is long.

    On a CPU whose cores other processes share, threads wait for each other in the backward pass of
    torch's fused attention (a step of a 3M model with two threads: 2.6 s, plain 0.5 s); on a quiet
    one both are equal. What the fused one saves, memory in the square of the length, matters only
    for long sequences.
    """
    trained = cast("Any", model)  # transformers types neither of these
    if longest <= _SHORT and trained.config._attn_implementation == "sdpa":
        trained.set_attn_implementation("eager")


def _optimizer(model: nn.Module, *, weight_decay: float) -> AdamW:
    trained = [value for value in model.parameters() if value.requires_grad]
    # Norms and biases set scales; pulling those towards zero is not what decay is for.
    groups: list[dict[str, Any]] = [
        {"params": [value for value in trained if value.ndim > 1], "weight_decay": weight_decay},
        {"params": [value for value in trained if value.ndim <= 1], "weight_decay": 0.0},
    ]
    # The learning rate is set anew at each step.
    return AdamW([group for group in groups if group["params"]], lr=0.0, fused=True)


def gradients(learner: Learner, task: Task, batches: Sequence[Names]) -> float:
    """Leaves the gradient of one optimizer step on the parameters; gives the mean loss in nats.

    Every unit of the step weighs the same, in whichever batch or process it is: the sum of a
    batch's loss is divided by the units of *all* the step's batches.
    """
    processes = learner.processes
    world = processes.num_processes
    units = sum(task.units_of(names) for names in batches)
    total = torch.zeros((), dtype=torch.float64, device=processes.device)
    learner.model.train()
    for number, names in enumerate(batches, start=1):
        # Gradients are shared out once, when all are there; where each process has room for its
        # share alone, at every batch.
        at_once = number == len(batches) or is_spread(learner.model)
        with nullcontext() if at_once else processes.no_sync(learner.model):
            loss = _summed_loss(learner, task, names)
            # Gradients are averaged over processes, and a sum is meant.
            processes.backward(loss * (world / units))
        total += loss.detach()
    return _over_processes(learner, total) / units


def apply_gradients(learner: Learner, *, lr: float, max_grad_norm: float) -> float:
    """Takes the step that the gradients point to; gives their norm before clipping.

    A norm that is not finite takes no step: it would be the end of the weights.
    """
    norm = whole(learner.processes.clip_grad_norm_(learner.model.parameters(), max_grad_norm))
    if torch.isfinite(norm):
        for group in learner.optimizer.param_groups:
            group["lr"] = lr
        learner.optimizer.step()  # pyright: ignore[reportUnknownMemberType]
    learner.optimizer.zero_grad()
    return float(norm)


def mean_loss(learner: Learner, task: Task, *, tokens_per_batch: int) -> float:
    """Loss of the model as it is, in nats per unit of the task."""
    steps = plan_epoch(
        task.lengths, tokens_per_batch=tokens_per_batch, accumulate=1, seed=0, epoch=0
    )
    total = torch.zeros((), dtype=torch.float64, device=learner.processes.device)
    learner.model.eval()
    with torch.no_grad():
        for (names,) in steps:
            total += _summed_loss(learner, task, names)
    return _over_processes(learner, total) / task.units_of(list(task.lengths))


def _summed_loss(learner: Learner, task: Task, names: Names) -> Tensor:
    """This process's share of a batch's loss.

    A process that gets no item computes one and learns nothing from it: gradients are averaged
    over all processes, so none may stay away.
    """
    processes = learner.processes
    mine = names[processes.process_index :: processes.num_processes]
    # What is spread is not accelerate's, which would have seen to the precision.
    with processes.autocast() if is_spread(learner.model) else nullcontext():
        if mine:
            return task.loss(learner.model, mine)
        return 0.0 * (task.stand_in or task.loss)(learner.model, names[:1])


def _over_processes(learner: Learner, value: Tensor) -> float:
    return float(learner.processes.reduce(value, reduction="sum"))


def weights(learner: Learner) -> dict[str, Tensor]:
    """The parameters that change, by name, tied ones once.

    They are the model's own, not copies. Of a model that is spread they are gathered for the main
    process, on the CPU; every process must ask, and the others get nothing.
    """
    return _for_main(learner, _changing(learner))


def set_weights(learner: Learner, saved: Mapping[str, Tensor]) -> None:
    """Puts saved values in place of the parameters that change."""
    for name, value in _changing(learner).items():
        value.copy_(as_spread(saved[name], like=value))


def _changing(learner: Learner) -> dict[str, Tensor]:
    if is_spread(learner.model):
        return _learnt(shares(learner.model))
    bare = learner.processes.unwrap_model(learner.model, keep_fp32_wrapper=True)
    return _learnt(dict(bare.named_parameters()))


def _learnt(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: value.data for name, value in parameters.items() if value.requires_grad}


def _for_main(learner: Learner, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values; gathered one by one where they are spread, so that room for one is enough."""
    if not is_spread(learner.model):
        return dict(values)
    kept: dict[str, Tensor] = {}
    for name, value in values.items():
        gathered = whole(value)
        if learner.processes.is_main_process:
            kept[name] = gathered.cpu()
    return kept


def finish(learner: Learner, model: PreTrainedModel, *, kept: Mapping[str, Tensor] | None) -> None:
    """Leaves the model ready to answer: whole, and without what wrapped it for training.

    Args:
        learner: What has learnt.
        model: What it was prepared from.
        kept: The weights that the model is to have; None: those that it has come to. Every process
            must have the same.
    """
    if is_spread(learner.model):
        changed = _changing(learner)
        for name, value in _learnt(dict(model.named_parameters())).items():
            value.copy_(whole(changed[name]) if kept is None else kept[name])
    elif kept is not None:
        set_weights(learner, kept)
    learner.processes.unwrap_model(learner.model, keep_fp32_wrapper=False)
    # Where precision is mixed, accelerate leaves the class's forward on the model itself: a circle
    # that would keep the weights in memory long after their last use.
    vars(model).pop("forward", None)
    model.eval()


def moments(learner: Learner) -> dict[str, Tensor]:
    """What the optimizer remembers, as flat names of tensors; gathered as `weights` are."""
    flat = {
        f"{number}.{key}": value
        for number, entry in _memory(learner).items()
        for key, value in entry.items()
    }
    return _for_main(learner, flat)


def _memory(learner: Learner) -> dict[int, dict[str, Tensor]]:
    return learner.optimizer.state_dict()["state"]


def set_moments(learner: Learner, saved: Mapping[str, Tensor]) -> None:
    """Makes the optimizer remember what `moments` gave."""
    places = [value for group in learner.optimizer.param_groups for value in group["params"]]
    remembered: dict[int, dict[str, Tensor]] = {}
    for name, value in saved.items():
        number, _, key = name.partition(".")
        # How many steps were taken is a number, the same everywhere.
        kept = value if key == "step" else as_spread(value, like=places[int(number)])
        remembered.setdefault(int(number), {})[key] = kept
    groups = learner.optimizer.state_dict()["param_groups"]
    learner.optimizer.load_state_dict({"state": remembered, "param_groups": groups})
