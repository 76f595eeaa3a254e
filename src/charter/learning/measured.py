"""What a model says about groups that it does not learn from: rewards and log-probabilities.

Groups are read as training reads them, and in batches of like length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open  # pyright: ignore[reportUnknownVariableType]
from safetensors.torch import save  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from charter.launch import from_main
from charter.learning.batches import plan_epoch
from charter.learning.grids import Group, Layout
from charter.learning.processes import join_processes
from charter.learning.tree import completion_logprobs, completion_rewards, summed_by_completion
from charter.records import content_hash
from charter.run import write_atomically

Values = dict[str, tuple[float, ...]]
"""One number for each completion of each group, by the group's name."""

_Reader = Callable[[Sequence[Group]], Tensor]
"""Gives `values_C` of groups."""
_CONTENT = "values"


def place(model: nn.Module) -> None:
    """Moves a model to this process's device: one that was spread waits on the CPU."""
    model.to(join_processes().device)


def rewards_of(
    model: nn.Module, groups: Mapping[str, Group], *, layout: Layout, tokens_per_batch: int
) -> Values:
    """The rewards of all completions under a reward model; each process computes all it asks for.

    Args:
        model: A sequence classification model with one label.
        groups: What to score, by name.
        layout: How they are read.
        tokens_per_batch: That go through the model at once.
    """

    def read(batch: Sequence[Group]) -> Tensor:
        return completion_rewards(model, batch, layout=layout)

    return _measured(model, groups, read, layout=layout, tokens_per_batch=tokens_per_batch)


def logprobs_of(
    model: nn.Module, groups: Mapping[str, Group], *, layout: Layout, tokens_per_batch: int
) -> Values:
    """The log-probabilities of whole completions, in nats; processes share the work.

    Every process must ask, and for the same.

    Args:
        model: A causal language model.
        groups: What to score, by name.
        layout: How they are read.
        tokens_per_batch: That go through the model at once.
    """

    def read(batch: Sequence[Group]) -> Tensor:
        return summed_by_completion(completion_logprobs(model, batch, layout=layout), batch)

    processes = join_processes()
    place(model)
    names = sorted(groups)
    mine = {
        name: groups[name] for name in names[processes.process_index :: processes.num_processes]
    }
    with processes.autocast():
        found = _measured(model, mine, read, layout=layout, tokens_per_batch=tokens_per_batch)
    flat = [
        value for name in names for value in found.get(name, (0.0,) * len(groups[name].completions))
    ]
    shared = torch.tensor(flat, dtype=torch.float64, device=processes.device)
    return _by_name(_listed(processes.reduce(shared, reduction="sum")), groups, names)


def kept_logprobs(
    model: nn.Module,
    groups: Mapping[str, Group],
    *,
    layout: Layout,
    tokens_per_batch: int,
    at: Path,
    identity: str,
) -> Values:
    """What `logprobs_of` gives, from a file if it is there; else written down for the next time.

    So a training that goes on elsewhere, or on a GPU whose sums vary, goes on with the same.

    Args:
        model: As for `logprobs_of`, and so the next three.
        groups: See there.
        layout: See there.
        tokens_per_batch: See there.
        at: The file; safetensors.
        identity: Names the model; a file about another one is made again.
    """
    names = sorted(groups)
    asked = [[name, groups[name].prompt, groups[name].completions] for name in names]
    title = content_hash([identity, layout, asked])
    known = from_main(lambda: _read_down(at, title))
    if known is not None:
        return _by_name(known, groups, names)
    values = logprobs_of(model, groups, layout=layout, tokens_per_batch=tokens_per_batch)
    flat = [value for name in names for value in values[name]]
    if join_processes().is_main_process:
        tensors = {_CONTENT: torch.tensor(flat, dtype=torch.float64)}
        write_atomically(at, save(tensors, metadata={"identity": title}))
    return values


def _measured(
    model: nn.Module,
    groups: Mapping[str, Group],
    read: _Reader,
    *,
    layout: Layout,
    tokens_per_batch: int,
) -> Values:
    lengths = {name: group.tokens_in(layout) for name, group in groups.items()}
    found: Values = {}
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for (names,) in plan_epoch(
            lengths, tokens_per_batch=tokens_per_batch, accumulate=1, seed=0, epoch=0
        ):
            batch = {name: groups[name] for name in names}
            found |= _by_name(_listed(read(list(batch.values()))), batch, names)
    model.train(was_training)
    return found


def _listed(values_C: Tensor) -> list[float]:
    return cast("list[float]", values_C.tolist())  # pyright: ignore[reportUnknownMemberType]


def _by_name(flat: Sequence[float], groups: Mapping[str, Group], names: Sequence[str]) -> Values:
    """One value for each completion, in the order of the names, under those names."""
    sizes = [len(groups[name].completions) for name in names]
    starts = accumulate(sizes, initial=0)
    return {
        name: tuple(flat[start : start + size])
        for name, start, size in zip(names, starts, sizes, strict=False)
    }


def _read_down(at: Path, title: str) -> list[float] | None:
    """What was written down under this title; None: nothing, or about something else."""
    try:
        with cast("Any", safe_open)(at, framework="pt") as file:
            written: Mapping[str, str] = file.metadata() or {}
            if written.get("identity") != title:
                return None
            return _listed(file.get_tensor(_CONTENT))
    except (FileNotFoundError, SafetensorError):
        return None
