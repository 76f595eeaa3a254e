"""A model in training: its gradients, its steps, its loss on examples it does not learn from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import PreTrainedModel

from charter.encoding import Example
from charter.learning.batches import collate, plan_epoch, shard, supervised_tokens
from charter.learning.logits import Logits, fastest_logits
from charter.learning.objectives import token_loss
from charter.learning.processes import Processes, join_processes

_PROBED = 2
"""Examples on which two ways to the logits are compared: enough to meet padding."""

_SHORT = 512
"""Tokens up to which the scores of all pairs are cheap to hold."""


@dataclass(frozen=True)
class Learner:
    """A model, with what moves it."""

    processes: Processes
    model: nn.Module
    """As accelerate wraps it."""
    optimizer: AdamW
    logits: Logits


def prepare(model: PreTrainedModel, *, weight_decay: float, probe: Sequence[Example]) -> Learner:
    """The model where it can train, wrapped for precision and processes, with its optimizer."""
    processes = join_processes()
    if processes.device.type == "cpu":
        _attend_quickly(model, longest=max((len(example.ids) for example in probe), default=0))
    wrapped = processes.prepare(model)
    short = sorted(probe, key=lambda example: len(example.ids))[:_PROBED]
    return Learner(
        processes=processes,
        model=wrapped,
        optimizer=_optimizer(wrapped, weight_decay=weight_decay),
        logits=fastest_logits(
            wrapped,
            head=cast("nn.Module | None", model.get_output_embeddings()),
            probe=collate(short).to(processes.device),
        ),
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


def gradients(learner: Learner, batches: Sequence[Sequence[Example]]) -> float:
    """Leaves the gradient of one optimizer step on the parameters; gives the mean loss in nats.

    Every response token of the step weighs the same, in whichever batch or process it is: the sum
    of a batch's loss is divided by the tokens of *all* the step's batches.
    """
    processes = learner.processes
    world = processes.num_processes
    tokens = sum(supervised_tokens(examples) for examples in batches)
    total = torch.zeros((), dtype=torch.float64, device=processes.device)
    learner.model.train()
    for number, examples in enumerate(batches, start=1):
        is_last = number == len(batches)
        with nullcontext() if is_last else processes.no_sync(learner.model):
            loss = _summed_loss(learner, examples)
            # Gradients are averaged over processes, and a sum is meant.
            processes.backward(loss * (world / tokens))
        total += loss.detach()
    return _over_processes(learner, total) / tokens


def apply_gradients(learner: Learner, *, lr: float, max_grad_norm: float) -> float:
    """Takes the step that the gradients point to; gives their norm before clipping.

    A norm that is not finite takes no step: it would be the end of the weights.
    """
    norm = learner.processes.clip_grad_norm_(learner.model.parameters(), max_grad_norm)
    if torch.isfinite(norm):
        for group in learner.optimizer.param_groups:
            group["lr"] = lr
        learner.optimizer.step()  # pyright: ignore[reportUnknownMemberType]
    learner.optimizer.zero_grad()
    return float(norm)


def mean_loss(learner: Learner, examples: Sequence[Example], *, tokens_per_batch: int) -> float:
    """Loss of the model as it is, in nats per response token."""
    numbered = {str(number): example for number, example in enumerate(examples)}
    steps = plan_epoch(
        {name: len(example.ids) for name, example in numbered.items()},
        tokens_per_batch=tokens_per_batch,
        accumulate=1,
        seed=0,
        epoch=0,
    )
    total = torch.zeros((), dtype=torch.float64, device=learner.processes.device)
    learner.model.eval()
    with torch.no_grad():
        for (names,) in steps:
            total += _summed_loss(learner, [numbered[name] for name in names])
    return _over_processes(learner, total) / supervised_tokens(examples)


def _summed_loss(learner: Learner, examples: Sequence[Example]) -> Tensor:
    processes = learner.processes
    batch = shard(examples, rank=processes.process_index, world=processes.num_processes)
    batch = batch.to(processes.device)
    return token_loss(learner.logits(learner.model, batch), batch.targets_S)


def _over_processes(learner: Learner, value: Tensor) -> float:
    return float(learner.processes.reduce(value, reduction="sum"))


def weights(learner: Learner) -> dict[str, Tensor]:
    """The parameters that change, by name, tied ones once: the model's own, not copies."""
    bare = learner.processes.unwrap_model(learner.model, keep_fp32_wrapper=True)
    return {name: value.data for name, value in bare.named_parameters() if value.requires_grad}


def set_weights(learner: Learner, saved: dict[str, Tensor]) -> None:
    """Puts saved values in place of the parameters that change."""
    for name, value in weights(learner).items():
        value.copy_(saved[name])


def moments(learner: Learner) -> dict[str, Tensor]:
    """What the optimizer remembers, as flat names of tensors."""
    return {
        f"{number}.{key}": value
        for number, entry in _memory(learner).items()
        for key, value in entry.items()
    }


def _memory(learner: Learner) -> dict[int, dict[str, Tensor]]:
    return learner.optimizer.state_dict()["state"]


def set_moments(learner: Learner, saved: dict[str, Tensor]) -> None:
    """Makes the optimizer remember what `moments` gave."""
    remembered: dict[int, dict[str, Tensor]] = {}
    for name, value in saved.items():
        number, _, key = name.partition(".")
        remembered.setdefault(int(number), {})[key] = value
    groups = learner.optimizer.state_dict()["param_groups"]
    learner.optimizer.load_state_dict({"state": remembered, "param_groups": groups})
