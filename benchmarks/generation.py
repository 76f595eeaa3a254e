"""The local engine against `generate` of transformers on left-padded batches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from benchmarks import tiny
from benchmarks.measuring import Figure, cpu_s, speedup
from charter.encoding import Encoder
from charter.models.loading import Loaded, fingerprint
from charter.models.local import LocalModel
from charter.records import Dialogue, Sampling, assistant, system, user
from charter.seeding import derive

CHOICES = ("w1", "w2")
_PROMPT, _REQUEST = 24, 16
"""Tokens of a prompt on average, and of each later request."""
_CALLS = 3
"""Of a chain: response, critique, revision."""


@dataclass(frozen=True)
class Work:
    """How much there is to do."""

    records: int
    at_once: int
    """Calls in flight here, rows a batch there."""
    prefix: int
    """Tokens of the system turn that all records share."""
    answer: int
    """Tokens of an answer on average."""


@dataclass(frozen=True)
class Chain:
    """A record's calls: each continues the dialogue of the one before."""

    opening: Dialogue
    requests: tuple[str, ...]
    """What the user says to each answer but the last."""
    limits: tuple[int, ...]
    """Tokens of each answer."""


def figures(*, quick: bool) -> Iterator[Figure]:
    """Chains of calls with long and with short answers, and judgements."""
    repeats = 1 if quick else 5
    small = Work(records=8, at_once=8, prefix=64, answer=8)
    long = small if quick else Work(records=64, at_once=64, prefix=256, answer=32)
    short = small if quick else Work(records=128, at_once=32, prefix=256, answer=12)
    judged = small if quick else Work(records=96, at_once=32, prefix=256, answer=40)
    loaded = loaded_model()
    yield _chain_figure("generation.chain", loaded, long, goal=4.5, repeats=repeats)
    yield _chain_figure("generation.short_chain", loaded, short, goal=9.0, repeats=repeats)
    yield _judge_figure(loaded, judged, repeats=repeats)


def loaded_model() -> Loaded:
    """The measured model, as if it had been read from a directory."""
    model, tokenizer = tiny.model().eval(), tiny.tokenizer()
    encoder = Encoder.of(tokenizer, eos_ids=None)
    return Loaded(
        name="tiny",
        model=model,
        tokenizer=tokenizer,
        encoder=encoder,
        fingerprint=fingerprint(model, encoder=encoder),
    )


def _chain_figure(
    figure: str, loaded: Loaded, work: Work, *, goal: float, repeats: int
) -> Figure:
    chains = list(_chains(work))
    model = LocalModel(loaded, capacity=work.at_once)
    result = speedup(
        figure,
        ours=lambda: _cpu_s_a_token(lambda: asyncio.run(_write(model, chains))),
        theirs=lambda: _cpu_s_a_token(lambda: _write_stock(loaded, chains, rows=work.at_once)),
        repeats=repeats,
        goal=goal,
        against=f"transformers generate, left-padded batches of {work.at_once}, sdpa",
    )
    asyncio.run(model.aclose())
    return result


def _judge_figure(loaded: Loaded, work: Work, *, repeats: int) -> Figure:
    dialogues = list(comparisons(work))
    model = LocalModel(loaded, capacity=work.at_once)
    result = speedup(
        "generation.judge",
        ours=lambda: cpu_s(lambda: asyncio.run(weigh(model, dialogues))),
        theirs=lambda: cpu_s(lambda: weigh_stock(loaded, dialogues, rows=work.at_once)),
        repeats=repeats,
        goal=4.5,
        against=f"transformers generate of one token, left-padded batches of {work.at_once}, sdpa",
    )
    asyncio.run(model.aclose())
    return result
