"""One prompt, many completions: the prompt is encoded once.

Three layouts give the same numbers:

- `rows`: each completion behind a copy of its prompt, as plain training has it.
- `tree`: a group in one row, `prompt | completion | completion | ...`. A mask keeps completions
  from seeing each other, and the positions of each go on from the prompt's end. Its attention
  grows with the square of all tokens of the group.
- `shared`: first the prompts; then the completions, each reading the keys and values of its prompt,
  through which gradients flow back. Gradient checkpointing keeps no keys and values: not with it.

The head (of the vocabulary, or of the reward) runs only where something is read off. It is reached
by a hook rather than called by hand: a wrapper around the model (data parallel, autocast, LoRA)
acts in *its* forward, which has to be the one that is called.

Axes: B rows of a grid, T its columns, K what a token may see, N what is read off a grid, D the
model's width, C completions, S completion tokens (groups, completions and tokens in order), V
vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from charter.learning.batches import bare, device_of
from charter.learning.grids import (
    Group,
    Layout,
    Pass,
    Reading,
    flat_completions,
    grid_size,
    in_rows,
    in_trees,
    in_turns,
    targets_of,
)
from charter.learning.logits import precision_of

__all__ = [
    "Group",
    "Layout",
    "completion_logprobs",
    "completion_rewards",
    "cost_of",
    "fitting_layout",
    "sound_layouts",
    "summed_by_completion",
]

SCALAR_HEAD = "score"
"""What Hugging Face calls the head of a decoder that classifies sequences."""

_TOLERANCE: Mapping[torch.dtype, float] = {
    torch.float32: 1e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 2e-2,
}
"""How far layouts may differ in the mean, by the precision of the weights, as a share of the
largest value: other shapes take other kernels, so equality is up to rounding."""
_PAIR_COST = 2.0
"""What a multiplication costs in attention, beside one with a weight: 1.9 fits the time of a 5M
model's steps on a CPU, in all layouts, for 2 to 8 completions of 32 to 200 tokens."""

_log = logging.getLogger(__name__)


def fitting_layout(
    model: PreTrainedModel, *, probe: Sequence[Group], in_one_pass: bool = False
) -> Layout:
    """The cheapest layout for groups like `probe` that gives what `rows` gives.

    Args:
        model: A causal language model, or a sequence classification model with one label, which
            is as it will be trained: adapted, its gradient checkpointing on or off.
        probe: Groups as long as those to come; the shortest are tried out.
        in_one_pass: Whether each batch has to be read by one call of the model.
    """
    layouts: list[Layout] = ["rows", "tree"]
    if not (in_one_pass or _checkpoints(model)):
        layouts.append("shared")
    by_cost = sorted(layouts, key=lambda layout: cost_of(layout, model=model, groups=probe))
    cheaper = by_cost[: by_cost.index("rows")]
    return sound_layouts(model, cheaper, probe=probe)[0] if cheaper else "rows"


def sound_layouts(
    model: PreTrainedModel, layouts: Sequence[Layout], *, probe: Sequence[Group]
) -> list[Layout]:
    """Those of some layouts that give what `rows` gives, in their order, and `rows` at the end.

    Args:
        model: As for `fitting_layout`.
        layouts: All but `rows`.
        probe: Groups; the shortest are tried out.
    """
    tried = _tried(probe)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        plain = _values(model, tried, "rows")
        reasons: dict[Layout, str | None] = {
            layout: _disagreement(model, tried, layout, plain=plain) for layout in layouts
        }
    model.train(was_training)
    sound: list[Layout] = [layout for layout, reason in reasons.items() if reason is None]
    if reasons and not sound:
        _log.warning(
            "each completion is read behind a copy of its prompt, which takes more time: %s",
            "; ".join(f"{layout}: {reason}" for layout, reason in reasons.items()),
        )
    sound.append("rows")
    return sound


def completion_logprobs(
    model: nn.Module, groups: Sequence[Group], *, layout: Layout, temperature: float = 1.0
) -> Tensor:
    """Every completion token's log-probability under a causal language model.

    Args:
        model: As it is, or wrapped.
        groups: At least one.
        layout: How they are laid out; a group that a sliding window cuts is laid out in `rows`.
        temperature: That the model's scores are divided by.

    Returns:
        `logprobs_S`, in nats, in float32.
    """
    head = cast("Any", bare(model)).get_output_embeddings()
    reading = _reading(model, groups, layout=layout, ends_only=False)
    logits_NV = _read(model, head, reading, pooled=False)
    scorer_S, targets_S = reading.scorer_S, targets_of(groups, device=device_of(model))
    # float(): in bfloat16 a log-sum-exp over a vocabulary keeps two digits. Its difference from the
    # one score that is asked for takes half the memory of a log-softmax over all of them.
    scores_NV = logits_NV.float()
    if temperature != 1.0:
        scores_NV = scores_NV / temperature
    return scores_NV[scorer_S, targets_S] - scores_NV.logsumexp(dim=-1)[scorer_S]


def completion_rewards(model: nn.Module, groups: Sequence[Group], *, layout: Layout) -> Tensor:
    """Every completion's reward: what the scalar head says at its last token.

    Args:
        model: A sequence classification model with one label, as it is or wrapped.
        groups: At least one.
        layout: How they are laid out; a group that a sliding window cuts is laid out in `rows`.

    Returns:
        `rewards_C`, in float32.
    """
    head = cast("nn.Module", getattr(bare(model), SCALAR_HEAD))
    reading = _reading(model, groups, layout=layout, ends_only=True)
    return _read(model, head, reading, pooled=True).float()


def summed_by_completion(values_S: Tensor, groups: Sequence[Group]) -> Tensor:
    """`sums_C`: for every completion the sum of what its tokens have."""
    lengths = [len(completion) for _, completion in flat_completions(groups)]
    owner_S = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    sums_C = torch.zeros(len(lengths), dtype=values_S.dtype, device=values_S.device)
    return sums_C.index_add(0, owner_S.to(values_S.device), values_S)


def _reading(
    model: nn.Module, groups: Sequence[Group], *, layout: Layout, ends_only: bool
) -> Reading:
    """How the groups are read: at each completion's last token, or wherever one is predicted."""
    if not groups:
        raise ValueError("no group to read: a batch holds at least one")
    if layout == "shared" and model.training and _checkpoints(model):
        raise ValueError(
            "gradient checkpointing keeps no keys and values to share: lay out as `tree` or `rows`"
        )
    window = _window(cast("Any", bare(model)).config)
    if window is not None and _extent(groups, layout) > window:
        layout = "rows"
    device = device_of(model)
    match layout:
        case "rows":
            return in_rows(groups, ends_only=ends_only, device=device)
        case "tree":
            return in_trees(groups, ends_only=ends_only, device=device)
        case "shared":
            return in_turns(groups, ends_only=ends_only, device=device)


def _read(model: nn.Module, head: nn.Module, reading: Reading, *, pooled: bool) -> Tensor:
    """What the head says at all points: `[N, V]`; `[N]` of a head whose output is pooled."""
    cache = DynamicCache() if len(reading.passes) > 1 else None
    parts: list[Tensor] = []
    for number, grid in enumerate(reading.passes):
        if cache is not None and number > 0:
            cache.batch_select_indices(reading.owner_C)
        with _only_at(head, grid, pooled=pooled):
            logits = model(
                input_ids=grid.ids_BT,
                attention_mask=_additive(grid.hidden_BTK, dtype=_dtype(model)),
                position_ids=grid.positions_BT,
                past_key_values=cache,
                use_cache=cache is not None,
            ).logits
        parts.append(logits[0] if pooled else logits)
    return torch.cat(parts)


@contextmanager
def _only_at(head: nn.Module, grid: Pass, *, pooled: bool) -> Generator[None]:
    """Inside, the head is shown the points of the grid alone.

    Where a model pools, it takes one position of each row from what its head gives. So it is given
    all that was read at every position: whichever it takes, nothing is lost.
    """

    def pick(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        picked_ND = inputs[0][grid.rows_N, grid.columns_N]
        # A head that is trained beside a frozen model is kept in float32, the model may not be.
        return (picked_ND.to(next(module.parameters()).dtype), *inputs[1:])

    def spread(_: nn.Module, __: tuple[Any, ...], output_N1: Tensor) -> Tensor:
        return output_N1.T[None].expand(*grid.ids_BT.shape, -1)

    handles = [head.register_forward_pre_hook(pick)]
    if pooled:
        handles.append(head.register_forward_hook(spread))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _additive(hidden_BTK: Tensor | None, *, dtype: torch.dtype) -> Tensor | None:
    """The mask in the form that every kind of attention takes: added to its scores."""
    if hidden_BTK is None:
        return None
    mask = torch.zeros(hidden_BTK.shape, dtype=dtype, device=hidden_BTK.device)
    return mask.masked_fill(hidden_BTK, torch.finfo(dtype).min)[:, None]


def _extent(groups: Sequence[Group], layout: Layout) -> int:
    """How far apart, in columns, two tokens of one attention may lie."""
    match layout:
        case "rows":
            return 0  # the model's own masks hold
        case "tree":
            return max(group.tokens for group in groups)
        case "shared":
            longest = max(len(completion) for _, completion in flat_completions(groups))
            return max(len(group.prompt) for group in groups) + longest


def _window(config: Any) -> int | None:
    """How far back the narrowest layer sees; None: to the beginning."""
    text = config.get_text_config()
    names = ("sliding_window", "attention_chunk_size", "window_size")
    widths = [getattr(text, name, None) for name in names]
    return min((width for width in widths if isinstance(width, int)), default=None)


def _checkpoints(model: nn.Module) -> bool:
    """Whether activations are computed twice rather than kept."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def _dtype(model: nn.Module) -> torch.dtype:
    """What its hidden states are kept in."""
    return cast("Any", bare(model)).dtype


def _tried(probe: Sequence[Group]) -> list[Group]:
    """Two groups on which layouts are compared, of unlike prompts: enough to meet padding."""
    shortest = min(probe, key=lambda group: group.tokens)
    return [shortest, Group(shortest.prompt[len(shortest.prompt) // 2 :], shortest.completions)]


def _values(model: nn.Module, groups: Sequence[Group], layout: Layout) -> Tensor:
    """What layouts are compared by: log-probabilities, or what rewards are read from.

    Not rewards: a new head's are nearly nothing, and rounding is no share of nothing.
    """
    head = getattr(bare(model), SCALAR_HEAD, None)
    if head is None:
        return completion_logprobs(model, groups, layout=layout)
    read: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...], __: Tensor) -> None:
        read.append(inputs[0])

    handle = cast("nn.Module", head).register_forward_hook(keep)
    try:
        completion_rewards(model, groups, layout=layout)
    finally:
        handle.remove()
    return torch.cat(read)


def _disagreement(
    model: nn.Module, groups: Sequence[Group], layout: Layout, *, plain: Tensor
) -> str | None:
    """Why a layout is not for this model; None: it gives what `rows` gives."""
    try:
        differences = (_values(model, groups, layout) - plain).abs()
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        # The model's forward knows no such mask, or keeps no keys and values.
        return f"it cannot be read so ({error})"
    precision = _TOLERANCE.get(precision_of(model), max(_TOLERANCE.values()))
    difference, tolerance = float(differences.mean()), precision * float(plain.abs().max())
    if difference <= tolerance:
        return None
    return f"it differs by {difference:.2g} in the mean, which may be {tolerance:.2g}"


def cost_of(layout: Layout, *, model: PreTrainedModel, groups: Sequence[Group]) -> float:
    """What it costs a layer to read groups: about its multiplications.

    That is, tokens times the layer's weights, plus pairs (of a token and one that it is compared
    with) times twice the width, which count double since attention keeps a processor less busy.
    """
    config = cast("Any", model.config).get_text_config()
    width, layers = config.hidden_size, config.num_hidden_layers
    embeddings = sum(
        value.numel()
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for value in module.parameters(recurse=False)
    )
    weights = max(model.num_parameters() - embeddings, 0) / layers
    tokens, pairs = grid_size(groups, layout)
    return tokens * weights + pairs * _PAIR_COST * 2 * width
