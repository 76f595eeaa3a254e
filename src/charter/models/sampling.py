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
from torch.nn import functional

NEAR = 1e-6
"""A draw this close to the boundary between two tokens may fall otherwise on another machine."""

_EXACT = torch.float64
_BLOCK = 64
_BELOW_ONE = 1 - 2.0**-52
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
    top_ks: Sequence[int],
) -> Draws:
    """One token for each row: the first whose cumulative probability exceeds the row's number.

    Temperature 0 takes the likeliest token, which then has log-probability 0.
    """
    weights = _weights(logits, temperatures=temperatures)
    if min(top_ps) < 1.0 or max(top_ks) > 0:
        weights = weights * _kept(weights, top_ps=top_ps, top_ks=top_ks)
    ids, masses, gaps, totals = _inverted(weights, weights.new_tensor(uniforms, dtype=_EXACT))
    greedy = [temperature == 0.0 for temperature in temperatures]
    if any(greedy):
        likeliest = logits.argmax(-1)
        ids = torch.where(torch.tensor(greedy, device=ids.device), likeliest, ids)
    # In one tensor, so that a GPU is waited for once; a double holds any id.
    numbers = torch.stack((ids.to(_EXACT), masses / totals, gaps / totals))
    drawn, shares, distances = cast("list[list[float]]", numbers.tolist())  # pyright: ignore[reportUnknownMemberType]
    return Draws(
        ids=[int(id_) for id_ in drawn],
        logprobs=[
            0.0 if sure else math.log(share) for sure, share in zip(greedy, shares, strict=True)
        ],
        near=[
            not sure and distance < NEAR for sure, distance in zip(greedy, distances, strict=True)
        ],
    )


def _weights(logits: Tensor, *, temperatures: Sequence[float]) -> Tensor:
    """What each token is drawn in proportion to, padded with zeros to whole blocks.

    Made by functions that treat each row by itself: the bits of `exp` over a whole tensor depend on
    where a row lies in it.
    """
    logits = logits.float()
    if any(temperature not in (0.0, 1.0) for temperature in temperatures):
        divisors = torch.tensor([t or 1.0 for t in temperatures], device=logits.device)
        logits = logits / divisors[:, None]
    missing = -logits.shape[-1] % _BLOCK
    weights = logits.softmax(-1)
    return functional.pad(weights, (0, missing)) if missing else weights


def _inverted(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, their masses, how far the draw was from the next token's, and the rows' totals.

    First the block is found in which the token lies, then the token: summing up a large vocabulary
    token by token took a quarter of a small model's step. For the same reason blocks are summed up
    in the weights' precision, whose error is a tenth of `NEAR`.
    """
    blocks = weights.view(len(weights), -1, _BLOCK)
    ends = blocks.sum(-1).to(_EXACT).cumsum(-1)
    totals = ends[:, -1]
    points = totals * uniforms
    block = torch.searchsorted(ends, points[:, None], right=True).clamp_(max=ends.shape[1] - 1)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0.0)[:, 0]
    own = blocks.gather(1, block[..., None].expand(-1, -1, _BLOCK))[:, 0].to(_EXACT)
    cumulative = own.cumsum(-1)
    # Rounding may put the point at or behind the block's end, where no token is.
    inside = torch.minimum(points - before, cumulative[:, -1] * _BELOW_ONE)
    place = torch.searchsorted(cumulative, inside[:, None], right=True).clamp_(max=_BLOCK - 1)
    masses = own.gather(1, place)[:, 0]
    above = cumulative.gather(1, place)[:, 0] - inside
    ids = block[:, 0] * _BLOCK + place[:, 0]
    return ids, masses, torch.minimum(above, masses - above), totals


def _kept(weights: Tensor, *, top_ps: Sequence[float], top_ks: Sequence[int]) -> Tensor:
    """Marks each row's likeliest tokens: its `top_k`, of these the fewest that have its `top_p`.

    Among equally likely tokens those with smaller ids come first.
    """
    vocabulary = weights.shape[-1]
    falling, order = weights.to(_EXACT).sort(dim=-1, descending=True, stable=True)
    most = torch.tensor([top_k or vocabulary for top_k in top_ks], device=weights.device)
    kept = torch.arange(vocabulary, device=weights.device) < most[:, None]
    falling = falling * kept
    before = falling.cumsum(-1) - falling
    top_p = falling.new_tensor(top_ps)[:, None]
    kept &= (before < top_p * falling.sum(-1, keepdim=True)) | (top_p >= 1.0)
    return torch.zeros_like(kept).scatter(-1, order, kept)
