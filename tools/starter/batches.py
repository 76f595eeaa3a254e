"""Lessons as token batches: of like length, so that little is padding and nothing leaks between."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tools.starter.content import World
from tools.starter.skills import Lesson, draw_lesson
from tools.starter.tokenizer import END, PAD, ROLES, SPECIAL, token_id

MAX_LENGTH = 448
_POOL = 1536
"""Lessons drawn at once and sorted by length."""

Encoded = tuple[list[int], list[float]]


class LessonEncoder:
    """Turns lessons into ids and loss weights."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._ids = {text: token_id(tokenizer, text) for text in ROLES.values()}
        self.end = token_id(tokenizer, END)
        self.pad = token_id(tokenizer, PAD)

    def __call__(self, lesson: Lesson) -> Encoded:
        """Ids and, for each of them, how much predicting it counts."""
        ids: list[int] = []
        weights: list[float] = []
        for turn in lesson:
            text = self._tokenizer.encode(turn.message.content, add_special_tokens=False)
            ids += [self._ids[ROLES[turn.message.role]], *text, self.end]
            weights += [0.0] + [turn.weight] * (len(text) + 1)
        return ids, weights


def copying_batches(
    rng: Random, *, steps: int, vocabulary: int, rows: int = 24, length: int = 24
) -> Iterator[tuple[Tensor, Tensor]]:
    """Random tokens said twice, the second time learnt from.

    A hundred such steps teach attention to copy, which lessons alone did not within 7M tokens:
    names came out as other names and order numbers as 77777.
    """
    lowest = len(SPECIAL)
    weights = torch.tensor([0.0] * (length + 1) + [1.0] * (length - 1)).repeat(rows, 1)
    for _ in range(steps):
        once = [[rng.randrange(lowest, vocabulary) for _ in range(length)] for _ in range(rows)]
        yield torch.tensor([row * 2 for row in once]), weights


def draw_batches(
    world: World, encoder: LessonEncoder, rng: Random, *, tokens_per_batch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of ids and weights, right-padded, of at most `tokens_per_batch` tokens.

    Causal attention without a mask is exact here: padding is to the right of everything real, and
    a row holds one conversation, which starts at position 0.
    """
    while True:
        pool = [encoder(draw_lesson(world, rng)) for _ in range(_POOL)]
        pool = [one for one in pool if len(one[0]) <= MAX_LENGTH]
        pool.sort(key=lambda one: len(one[0]))
        groups: list[list[Encoded]] = [[]]
        for one in pool:
            if (len(groups[-1]) + 1) * _rounded(len(one[0])) > tokens_per_batch:
                groups.append([])
            groups[-1].append(one)
        rng.shuffle(groups)
        for group in groups:
            yield _pad(group, encoder.pad)


def _rounded(length: int) -> int:
    return (length + 7) // 8 * 8


def _pad(group: list[Encoded], pad: int) -> tuple[Tensor, Tensor]:
    width = _rounded(max(len(ids) for ids, _ in group))
    ids = torch.full((len(group), width), pad)
    weights = torch.zeros(len(group), width)
    for row, (its_ids, its_weights) in enumerate(group):
        ids[row, : len(its_ids)] = torch.tensor(its_ids)
        weights[row, : len(its_ids)] = torch.tensor(its_weights)
    return ids, weights
