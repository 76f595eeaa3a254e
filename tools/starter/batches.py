"""Lessons as token batches: of like length, so that little is padding and nothing leaks between."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tools.starter.content import World
from tools.starter.skills import Lesson
from tools.starter.tokenizer import END, PAD, ROLES, SPECIAL, token_id

MAX_LENGTH = 448
_POOL = 1536
"""Lessons drawn at once and sorted by length."""
_SPELT_SHARE = 0.35
"""How many of the lessons have words in other pieces than usual."""
_SPELT_WORDS = 0.4
"""How many words in them."""
_DROPOUT = 0.3
"""The chance that such a word's pieces are not merged where they could be."""


class Encoded(NamedTuple):
    """A lesson as ids."""

    ids: list[int]
    weights: list[float]
    """How much predicting each id counts."""
    asked: list[tuple[int, int, int]]
    """Where replies to requests begin, the numbers of those requests' intents, and 1 if pressed."""


class Batch(NamedTuple):
    """Rows of ids, with what is learnt from them."""

    ids: Tensor
    weights: Tensor
    rows: Tensor
    """The row of each request whose intent is known."""
    places: Tensor
    """Where in its row the reply to it begins."""
    intents: Tensor
    pressed: Tensor
    """1 where the request was made under pressure, else 0."""


class Speller:
    """Breaks words into other pieces than the tokenizer does, the same ones throughout a lesson.

    BPE-dropout (Provilkov et al. 2020, arXiv:1910.13267): a word that strangers use, or mistype, is
    then pieces whose meaning is known; and words of several pieces are learnt to be copied, not
    only those that the world has.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rng: Random) -> None:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        rules["model"]["dropout"] = _DROPOUT
        self._dropping = Tokenizer.from_str(json.dumps(rules))
        self._plain = tokenizer.backend_tokenizer
        self._rng = rng

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text; a word that was said before is spelt as it was."""
        spelt: dict[str, list[int]] = {}
        return [
            [number for word in self._words(text) for number in self._ids(word, spelt)]
            for text in texts
        ]

    def _words(self, text: str) -> list[str]:
        pieces = self._plain.pre_tokenizer.pre_tokenize_str(text)
        return [text[start:end] for _, (start, end) in pieces]

    def _ids(self, word: str, spelt: dict[str, list[int]]) -> list[int]:
        if word not in spelt:
            other = self._rng.random() < _SPELT_WORDS
            chosen = self._dropping if other else self._plain
            spelt[word] = chosen.encode(word, add_special_tokens=False).ids
        return spelt[word]


class LessonEncoder:
    """Turns lessons into ids and loss weights."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        intents: Sequence[str] = (),
        rng: Random | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._intents = {name: number for number, name in enumerate(intents)}
        self._ids = {text: token_id(tokenizer, text) for text in ROLES.values()}
        self._rng = rng
        self._speller = Speller(tokenizer, rng) if rng else None
        self.end = token_id(tokenizer, END)
        self.pad = token_id(tokenizer, PAD)

    def __call__(self, lesson: Lesson) -> Encoded:
        """Ids and, for each of them, how much predicting it counts."""
        ids: list[int] = []
        weights: list[float] = []
        asked: list[tuple[int, int, int]] = []
        texts = self._texts([turn.message.content for turn in lesson.turns])
        for turn, text in zip(lesson.turns, texts, strict=True):
            if turn.intent is not None and turn.intent in self._intents:
                asked.append((len(ids), self._intents[turn.intent], int(turn.pressed)))
            ids += [self._ids[ROLES[turn.message.role]], *text, self.end]
            weights += [0.0] + [turn.weight] * (len(text) + 1)
        return Encoded(ids, weights, asked)

    def _texts(self, texts: list[str]) -> list[list[int]]:
        if self._speller and self._rng and self._rng.random() < _SPELT_SHARE:
            return self._speller(texts)
        return [self._tokenizer.encode(text, add_special_tokens=False) for text in texts]


def copying_batches(
    rng: Random, *, vocabulary: int, rows: int = 24, length: int = 64
) -> Iterator[Batch]:
    """Endless rows of random tokens said over and over; all but the first time is learnt from.

    How many tokens are repeated differs from row to row, or attention would learn a distance
    instead of looking for what stood before.
    """
    lowest = len(SPECIAL)
    none = torch.zeros(0, dtype=torch.long)
    while True:
        ids, weights = torch.zeros(rows, length, dtype=torch.long), torch.zeros(rows, length)
        for row in range(rows):
            period = rng.randint(length // 8, length // 2)
            said = [rng.randrange(lowest, vocabulary) for _ in range(period)]
            ids[row] = torch.tensor((said * length)[:length])
            weights[row, period + 1 :] = 1.0
        yield Batch(ids, weights, none, none, none, none)


def draw_batches(
    world: World,
    draw: Callable[[World, Random], Lesson],
    encoder: LessonEncoder,
    rng: Random,
    *,
    tokens_per_batch: int,
) -> Iterator[Batch]:
    """Endless batches of ids and weights, right-padded, of at most `tokens_per_batch` tokens.

    Causal attention without a mask is exact here: padding is to the right of everything real, and
    a row holds one conversation, which starts at position 0.
    """
    while True:
        pool = [encoder(draw(world, rng)) for _ in range(_POOL)]
        pool = [one for one in pool if len(one.ids) <= MAX_LENGTH]
        pool.sort(key=lambda one: len(one.ids))
        groups: list[list[Encoded]] = [[]]
        for one in pool:
            if (len(groups[-1]) + 1) * _rounded(len(one.ids)) > tokens_per_batch:
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
    asked = [(row, *each) for row, one in enumerate(group) for each in one.asked]
    told = torch.tensor(asked, dtype=torch.long).reshape(-1, 4).unbind(1)
    return Batch(ids, weights, *told)
