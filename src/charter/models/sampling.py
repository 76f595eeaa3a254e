"""Drawing the next token: by inverse CDF, with a random number that belongs to seed and position.

Tensors have one row for each answer; the last axis is the vocabulary or has size 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

NEAR = 1e-6
"""A draw this close to the boundary between two tokens may fall otherwise on another machine."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MASK = 2**64 - 1


@dataclass(frozen=True)
class Draws:
    """What was drawn for each row."""

    ids: list[int]
    logprobs: list[float]
    """Natural log-probability of each id under the distribution it was drawn from."""
    near: list[bool]
    """Whether the draw fell within `NEAR` of a boundary."""


def uniforms(seeds: Sequence[int], positions: Sequence[int]) -> list[float]:
    """Numbers in the open interval (0, 1), each a function of one seed and one position.

    Splitmix64 (Steele, Lea and Flood 2014) twice: over the seed, then over the position, so that
    neighbouring seeds share no stretch of numbers.
    """
    seed = np.array([seed & _MASK for seed in seeds], dtype=np.uint64)
    position = np.array(positions, dtype=np.uint64)
    bits = _splitmix(_splitmix(seed) + position * _GOLDEN)
    # 52 bits and a half: with 53, the largest number would round to 1.
    return (((bits >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52).tolist()


def _splitmix(state: np.ndarray) -> np.ndarray:
    mixed = state + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    return mixed ^ (mixed >> np.uint64(31))


def draw(
    logits: Tensor,
    *,
    uniforms: Sequence[float],
    temperatures: Sequence[float],
    top_ps: Sequence[float],
) -> Draws:
    """One token for each row: the first whose cumulative probability exceeds the row's number.

    Temperature 0 takes the likeliest token, which then has log-probability 0.
    """
    weights = _weights(logits, temperatures=temperatures, top_ps=top_ps)
    cumulative = weights.cumsum(-1)
    totals = cumulative[:, -1:]
    points = totals * weights.new_tensor(uniforms)[:, None]
    ids = torch.searchsorted(cumulative, points, right=True)
    greedy = [temperature == 0.0 for temperature in temperatures]
    if any(greedy):
        likeliest = logits.float().argmax(-1, keepdim=True)
        ids = torch.where(torch.tensor(greedy, device=ids.device)[:, None], likeliest, ids)
    masses = weights.gather(-1, ids)
    above = cumulative.gather(-1, ids) - points
    shares = _numbers(masses / totals)
    gaps = _numbers(torch.minimum(above, masses - above) / totals)
    return Draws(
        ids=[int(id_) for id_ in _numbers(ids)],
        logprobs=[0.0 if sure else math.log(p) for sure, p in zip(greedy, shares, strict=True)],
        near=[not sure and gap < NEAR for sure, gap in zip(greedy, gaps, strict=True)],
    )


def _weights(logits: Tensor, *, temperatures: Sequence[float], top_ps: Sequence[float]) -> Tensor:
    """What each token is drawn in proportion to.

    Made by functions that treat each row by itself: the bits of `exp` over a whole tensor depend on
    where a row lies in it.
    """
    divisors = torch.tensor([t or 1.0 for t in temperatures], device=logits.device)
    weights = (logits.float() / divisors[:, None]).softmax(-1).double()
    if min(top_ps) < 1.0:
        weights = weights * _in_nucleus(weights, top_p=weights.new_tensor(top_ps)[:, None])
    return weights


def _in_nucleus(weights: Tensor, *, top_p: Tensor) -> Tensor:
    """Marks the fewest likeliest tokens of each row that together have at least its top-p.

    Among equally likely tokens those with smaller ids come first.
    """
    falling, order = weights.sort(dim=-1, descending=True, stable=True)
    before = falling.cumsum(-1) - falling
    kept = (before < top_p * weights.sum(-1, keepdim=True)) | (top_p >= 1.0)
    return torch.zeros_like(kept).scatter(-1, order, kept)


def _numbers(column: Tensor) -> list[float]:
    return cast("list[float]", column[:, 0].tolist())  # pyright: ignore[reportUnknownMemberType]
