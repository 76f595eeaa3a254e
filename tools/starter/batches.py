"""Lessons as token batches: of like length, so that little is padding and nothing leaks between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tools.starter.content import World
from tools.starter.skills import Lesson, draw_lesson
from tools.starter.tokenizer import END, PAD, ROLES, SPECIAL, token_id

MAX_LENGTH = 448
_POOL = 1536
"""Lessons drawn at once and sorted by length."""

UNLABELLED = -100
"""As the intent of a row: it has none to be told."""


class Encoded(NamedTuple):
    """A lesson as ids."""

    ids: list[int]
    weights: list[float]
    """How much predicting each id counts."""
    place: int
    """Where the last reply begins."""
    intent: int
    """The number of the request's intent, or `UNLABELLED`."""


class Batch(NamedTuple):
    """Rows of ids, with what is learnt from them."""

    ids: Tensor
    weights: Tensor
    places: Tensor
    intents: Tensor


class LessonEncoder:
    """Turns lessons into ids and loss weights."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, intents: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._intents = {name: number for number, name in enumerate(intents)}
        self._ids = {text: token_id(tokenizer, text) for text in ROLES.values()}
        self.end = token_id(tokenizer, END)
        self.pad = token_id(tokenizer, PAD)

    def __call__(self, lesson: Lesson) -> Encoded:
        """Ids and, for each of them, how much predicting it counts."""
        ids: list[int] = []
        weights: list[float] = []
        place = 0
        for turn in lesson.turns:
            place = len(ids)
            text = self._tokenizer.encode(turn.message.content, add_special_tokens=False)
            ids += [self._ids[ROLES[turn.message.role]], *text, self.end]
            weights += [0.0] + [turn.weight] * (len(text) + 1)
        return Encoded(ids, weights, place, self._intents.get(lesson.intent or "", UNLABELLED))


def copying_batches(
    rng: Random, *, vocabulary: int, rows: int = 24, length: int = 64
) -> Iterator[Batch]:
    """Endless rows of random tokens said over and over; all but the first time is learnt from.

    How many tokens are repeated differs from row to row, or attention would learn a distance
    instead of looking for what stood before.
    """
    lowest = len(SPECIAL)
    while True:
        ids, weights = torch.zeros(rows, length, dtype=torch.long), torch.zeros(rows, length)
        for row in range(rows):
            period = rng.randint(length // 8, length // 2)
            said = [rng.randrange(lowest, vocabulary) for _ in range(period)]
            ids[row] = torch.tensor((said * length)[:length])
            weights[row, period + 1 :] = 1.0
        unlabelled = torch.full((rows,), UNLABELLED)
        yield Batch(ids, weights, torch.zeros_like(unlabelled), unlabelled)


def draw_batches(
    world: World, encoder: LessonEncoder, rng: Random, *, tokens_per_batch: int
) -> Iterator[Batch]:
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


def _pad(group: list[Encoded], pad: int) -> Batch:
    width = _rounded(max(len(one.ids) for one in group))
    ids = torch.full((len(group), width), pad)
    weights = torch.zeros(len(group), width)
    for row, one in enumerate(group):
        ids[row, : len(one.ids)] = torch.tensor(one.ids)
        weights[row, : len(one.ids)] = torch.tensor(one.weights)
    places = torch.tensor([one.place for one in group])
    return Batch(ids, weights, places, torch.tensor([one.intent for one in group]))
