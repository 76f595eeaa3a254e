"""How prompts and completions are laid out for a model to read; see `tree.py` for why.

Rows are padded on the right. In `rows` no mask is needed: attention is causal, so no token sees
the padding behind it.

Axes: B rows of a grid, T its columns, K what a token may see, N what is read off a grid, C
completions, S completion tokens (groups, completions and tokens in order).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

Layout = Literal["rows", "tree", "shared"]


@dataclass(frozen=True)
class Group:
    """A prompt and its completions, as ids.

    Raises:
        ValueError: There is nothing to read the first token of a completion from, or no completion,
            or an empty one.
    """

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    """With their terminators, where they have one."""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("the prompt has no token: the first of a completion follows nothing")
        if not self.completions:
            raise ValueError("the group has no completion: leave it out")
        if not all(self.completions):
            number = self.completions.index(())
            raise ValueError(
                f"completion {number} has no token: give it its terminator, or leave it out"
            )

    @property
    def tokens(self) -> int:
        """What a model reads of it in `tree` and `shared`: the prompt once."""
        return len(self.prompt) + sum(map(len, self.completions))

    def tokens_in(self, layout: Layout) -> int:
        """What a model reads of it, padding aside."""
        copies = len(self.completions) if layout == "rows" else 1
        return self.tokens + (copies - 1) * len(self.prompt)


@dataclass(frozen=True)
class Pass:
    """Ids that go through the model together, and where it is read off."""

    ids_BT: Tensor
    rows_N: Tensor
    columns_N: Tensor
    positions_BT: Tensor | None = None
    hidden_BTK: Tensor | None = None
    """True where a token may not see one of the K before it; None: plainly causal."""


@dataclass(frozen=True)
class Reading:
    """One pass; or two, of which the second reads the keys and values of the first."""

    passes: tuple[Pass, ...]
    owner_C: Tensor
    """The group of each completion."""
    scorer_S: Tensor
    """Which of the N that are read off, counted through the passes, scores each token."""


def in_rows(groups: Sequence[Group], *, ends_only: bool, device: torch.device) -> Reading:
    """Each completion behind a copy of its prompt."""
    flat = flat_completions(groups)
    points: list[tuple[int, int]] = []
    for row, (number, completion) in enumerate(flat):
        start, end = len(groups[number].prompt), len(groups[number].prompt) + len(completion)
        # Position t scores the token at t + 1.
        columns = (end - 1,) if ends_only else range(start - 1, end - 1)
        points += [(row, column) for column in columns]
    ids_BT = _padded([groups[number].prompt + completion for number, completion in flat])
    return Reading(
        passes=(_pass(ids_BT, points, device=device),),
        owner_C=_owner(groups, device=device),
        scorer_S=torch.arange(len(points), device=device),
    )


def in_trees(groups: Sequence[Group], *, ends_only: bool, device: torch.device) -> Reading:
    """Each group in one row."""
    rows = [group.prompt + tuple(chain(*group.completions)) for group in groups]
    places: list[tuple[int, int]] = []
    positions: list[list[int]] = []
    branches: list[list[int]] = []
    for row, group in enumerate(groups):
        length = len(group.prompt)
        positions.append(list(range(length)))
        branches.append([0] * length)
        for number, completion in enumerate(group.completions, start=1):
            places.append((row, len(branches[row])))
            positions[row] += range(length, length + len(completion))
            branches[row] += [number] * len(completion)
    branch_BT = _padded(branches, fill=-1)
    points = _points(groups, places, ends_only=ends_only)
    return Reading(
        passes=(
            _pass(
                _padded(rows),
                points,
                device=device,
                positions_BT=_padded(positions),
                hidden_BTK=_hidden_in_tree(branch_BT.to(device)),
            ),
        ),
        owner_C=_owner(groups, device=device),
        scorer_S=_scorer(groups, device=device),
    )


def in_turns(groups: Sequence[Group], *, ends_only: bool, device: torch.device) -> Reading:
    """First the prompts, then the completions on their prompts' keys and values."""
    flat = flat_completions(groups)
    # The last token of a completion predicts nothing, and need not be read to be predicted.
    read = [completion if ends_only else completion[:-1] for _, completion in flat]
    points = _points(groups, [(row, 0) for row in range(len(flat))], ends_only=ends_only)
    prompt_ends = [] if ends_only else points[: len(groups)]
    prompts = _pass(_padded([group.prompt for group in groups]), prompt_ends, device=device)
    owner_C = _owner(groups, device=device)
    scorer_S = _scorer(groups, device=device)
    ids_BT = _padded(read)
    if ids_BT.shape[1] == 0:
        return Reading(passes=(prompts,), owner_C=owner_C, scorer_S=scorer_S)
    lengths_B = torch.tensor([len(group.prompt) for group in groups], device=device)
    starts_C1 = lengths_B[owner_C][:, None]
    columns_T = torch.arange(ids_BT.shape[1], device=device)
    completions = _pass(
        ids_BT,
        points[len(prompt_ends) :],
        device=device,
        positions_BT=starts_C1 + columns_T,
        hidden_BTK=_hidden_in_turn(starts_C1, prompts.ids_BT.shape[1], len(columns_T)),
    )
    return Reading(passes=(prompts, completions), owner_C=owner_C, scorer_S=scorer_S)


def _points(
    groups: Sequence[Group], places: Sequence[tuple[int, int]], *, ends_only: bool
) -> list[tuple[int, int]]:
    """Where a grid is read off, if completions start at `places`, each prompt at column 0.

    Either the ends of completions, or first the ends of prompts, which predict the first token of
    every completion, then all tokens of completions but their last.
    """
    starts = zip(flat_completions(groups), places, strict=True)
    if ends_only:
        return [(row, start + len(completion) - 1) for (_, completion), (row, start) in starts]
    ends = [(row, len(group.prompt) - 1) for row, group in enumerate(groups)]
    return ends + [
        (row, start + at)
        for (_, completion), (row, start) in starts
        for at in range(len(completion) - 1)
    ]


def _scorer(groups: Sequence[Group], *, device: torch.device) -> Tensor:
    """Which of `_points` scores each completion token."""
    scorer: list[int] = []
    inner = len(groups)
    for number, completion in flat_completions(groups):
        scorer += [number, *range(inner, inner + len(completion) - 1)]
        inner += len(completion) - 1
    return torch.tensor(scorer, device=device)


def _hidden_in_tree(branch_BT: Tensor) -> Tensor:
    """Hides what comes later, and what belongs to another branch; 0 is the trunk, -1 padding."""
    width = branch_BT.shape[1]
    later_TT = torch.ones(width, width, dtype=torch.bool, device=branch_BT.device).triu(1)
    mine_BTT = (branch_BT[:, None, :] == branch_BT[:, :, None]) | (branch_BT[:, None, :] == 0)
    return later_TT | ~mine_BTT


def _hidden_in_turn(starts_C1: Tensor, prompt_width: int, width: int) -> Tensor:
    """Hides the padding of prompts, and what comes later in a completion."""
    device = starts_C1.device
    padding_CK = torch.arange(prompt_width, device=device) >= starts_C1
    later_TT = torch.ones(width, width, dtype=torch.bool, device=device).triu(1)
    completions = len(starts_C1)
    return torch.cat(
        [
            padding_CK[:, None, :].expand(completions, width, prompt_width),
            later_TT.expand(completions, width, width),
        ],
        dim=2,
    )


def _pass(
    ids_BT: Tensor,
    points: Sequence[tuple[int, int]],
    *,
    device: torch.device,
    positions_BT: Tensor | None = None,
    hidden_BTK: Tensor | None = None,
) -> Pass:
    points_N2 = torch.tensor(points, dtype=torch.long, device=device).reshape(-1, 2)
    return Pass(
        ids_BT=ids_BT.to(device),
        rows_N=points_N2[:, 0],
        columns_N=points_N2[:, 1],
        positions_BT=None if positions_BT is None else positions_BT.to(device),
        hidden_BTK=hidden_BTK,
    )


def _padded(rows: Sequence[Sequence[int]], *, fill: int = 0) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def flat_completions(groups: Sequence[Group]) -> list[tuple[int, tuple[int, ...]]]:
    """All completions, each with the number of its group."""
    return [(at, completion) for at, group in enumerate(groups) for completion in group.completions]


def _owner(groups: Sequence[Group], *, device: torch.device) -> Tensor:
    return torch.tensor([number for number, _ in flat_completions(groups)], device=device)


def targets_of(groups: Sequence[Group], *, device: torch.device) -> Tensor:
    """All completion tokens, in order."""
    return torch.tensor(
        [id_ for _, tokens in flat_completions(groups) for id_ in tokens], device=device
    )


def grid_size(groups: Sequence[Group], layout: Layout) -> tuple[int, int]:
    """The tokens that a model reads, and the pairs of tokens that it compares.

    Counts what pads the completions of a group, and not what pads groups: batches hold alike ones.
    """
    sizes = [_group_size(group, layout) for group in groups]
    return sum(tokens for tokens, _ in sizes), sum(pairs for _, pairs in sizes)


def _group_size(group: Group, layout: Layout) -> tuple[int, int]:
    prompt, count = len(group.prompt), len(group.completions)
    longest = max(map(len, group.completions))
    match layout:
        case "rows":
            return count * (prompt + longest), count * (prompt + longest) ** 2
        case "tree":
            return group.tokens, group.tokens**2
        case "shared":
            pairs = prompt**2 + count * longest * (prompt + longest)
            return prompt + count * longest, pairs
