"""The local engine against `generate` of transformers: chains of calls, and judgements."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

from benchmarks import stock, tiny
from benchmarks.measuring import Figure, cpu_s, speedup
from charter.encoding import Encoder
from charter.models.loading import Loaded, fingerprint
from charter.models.local import LocalModel
from charter.records import Dialogue, Sampling, assistant, system, user

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
    """Chains with long and with short answers, and judgements."""
    repeats = 1 if quick else 3
    small = Work(records=8, at_once=8, prefix=64, answer=6)
    long = small if quick else Work(records=64, at_once=64, prefix=256, answer=32)
    short = small if quick else Work(records=128, at_once=32, prefix=256, answer=12)
    judged = small if quick else Work(records=48, at_once=32, prefix=256, answer=40)
    loaded = loaded_model()
    yield _chains_figure("generation.chains", loaded, long, goal=4.5, repeats=repeats)
    yield _chains_figure("generation.short_chains", loaded, short, goal=9.0, repeats=repeats)
    yield _judge_figure(loaded, judged, goal=4.5, repeats=repeats)


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


@contextmanager
def local(loaded: Loaded, *, capacity: int) -> Iterator[LocalModel]:
    """Our engine, for as long as it is needed."""
    model = LocalModel(loaded, capacity=capacity)
    try:
        yield model
    finally:
        asyncio.run(model.aclose())


def comparisons(work: Work) -> list[Dialogue]:
    """Two answers to each prompt, in both orders."""
    rng = Random(0)
    rules = system(tiny.words(work.prefix, rng=rng))
    dialogues: list[Dialogue] = []
    for _ in range(work.records):
        prompt = _text(_PROMPT, rng=rng)
        first, second = _text(work.answer, rng=rng), _text(work.answer, rng=rng)
        dialogues += (
            (rules, user(" ".join((prompt, *answers))))
            for answers in ((first, second), (second, first))
        )
    return dialogues


async def weigh(model: LocalModel, dialogues: Sequence[Dialogue]) -> list[dict[str, float]]:
    """Log-probabilities of both choices after each dialogue, by the engine."""
    model.weights_changed()  # or it would still know what it read in the repeat before
    return await asyncio.gather(
        *(model.choose(dialogue, choices=CHOICES) for dialogue in dialogues)
    )


def _chains_figure(figure: str, loaded: Loaded, work: Work, *, goal: float, repeats: int) -> Figure:
    chains = _chains(work)
    with local(loaded, capacity=work.at_once) as model:
        return speedup(
            figure,
            ours=lambda: _cpu_s_a_token(lambda: asyncio.run(_write(model, chains))),
            theirs=lambda: _cpu_s_a_token(lambda: _write_stock(loaded, chains, work.at_once)),
            repeats=repeats,
            goal=goal,
            against=f"transformers generate, left-padded batches of {work.at_once}",
        )


def _judge_figure(loaded: Loaded, work: Work, *, goal: float, repeats: int) -> Figure:
    dialogues = comparisons(work)
    with local(loaded, capacity=work.at_once) as model:
        return speedup(
            "generation.judge",
            ours=lambda: cpu_s(lambda: asyncio.run(weigh(model, dialogues))),
            theirs=lambda: cpu_s(
                lambda: stock.weigh(loaded, dialogues, choices=CHOICES, rows=work.at_once)
            ),
            repeats=repeats,
            goal=goal,
            against=f"transformers generate of one token, left-padded batches of {work.at_once}",
        )


def _chains(work: Work) -> list[Chain]:
    rng = Random(0)
    rules = system(tiny.words(work.prefix, rng=rng))
    return [
        Chain(
            opening=(rules, user(_text(_PROMPT, rng=rng))),
            requests=tuple(tiny.words(_REQUEST, rng=rng) for _ in range(_CALLS - 1)),
            limits=tuple(
                tiny.length(work.answer, spread=0.6, longest=3 * work.answer, rng=rng)
                for _ in range(_CALLS)
            ),
        )
        for _ in range(work.records)
    ]


async def _write(model: LocalModel, chains: Sequence[Chain]) -> int:
    """Write all chains, as many at once as the model holds; gives the tokens written."""
    model.weights_changed()  # or it would still know what it read in the repeat before
    free = asyncio.Semaphore(model.capacity)

    async def see_through(number: int, chain: Chain) -> int:
        dialogue, tokens = chain.opening, 0
        async with free:
            for call, limit in enumerate(chain.limits):
                answer = await model.generate(
                    dialogue, sampling=Sampling(max_new_tokens=limit), seed=number * _CALLS + call
                )
                tokens += answer.usage.completion_tokens
                dialogue = _continued(dialogue, answer.text, chain, call)
        return tokens

    return sum(await asyncio.gather(*(see_through(*each) for each in enumerate(chains))))


def _write_stock(loaded: Loaded, chains: Sequence[Chain], rows: int) -> int:
    """The same chains, call by call in batches; gives the tokens written."""
    dialogues = [chain.opening for chain in chains]
    tokens = 0
    for call in range(_CALLS):
        limits = [chain.limits[call] for chain in chains]
        answers = stock.write(loaded, dialogues, limits=limits, rows=rows)
        tokens += sum(map(len, answers))
        dialogues = [
            _continued(dialogue, loaded.encoder.text(answer), chain, call)
            for dialogue, answer, chain in zip(dialogues, answers, chains, strict=True)
        ]
    return tokens


def _continued(dialogue: Dialogue, answer: str, chain: Chain, call: int) -> Dialogue:
    """What the next call is shown; after the last one, nothing is asked any more."""
    return (*dialogue, assistant(answer), *(user(text) for text in chain.requests[call : call + 1]))


def _text(mean: int, *, rng: Random) -> str:
    return tiny.words(tiny.length(mean, spread=0.4, longest=3 * mean, rng=rng), rng=rng)


def _cpu_s_a_token(write: Callable[[], int]) -> float:
    """Either side may draw the terminator early, so its cost is shared by what it wrote."""
    began = time.process_time()
    tokens = write()
    return (time.process_time() - began) / tokens
