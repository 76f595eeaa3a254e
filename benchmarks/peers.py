"""The local engine against CTranslate2, which caches what all prompts begin with."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from benchmarks import tiny
from benchmarks.measuring import Figure, cpu_s, speedup
from charter.models.calls import Writing
from charter.models.engine import Engine
from charter.models.network import Network
from charter.models.scheduler import Scheduler
from charter.records import Sampling

_SHORTEST, _LONGEST = 12, 36
"""Tokens of a prompt, less what is shared."""
_SPREAD = 0.6
"""The standard deviation of the logarithm of an answer's length."""


@dataclass(frozen=True)
class Work:
    """Prompts to answer, each at a length of its own: both sides write the same tokens."""

    prefix: list[int]
    """What all prompts begin with."""
    prompts: list[list[int]]
    limits: list[int]
    """Tokens of each answer."""
    rows: int
    """Slots here, rows a batch there."""
    temperature: float = 1.0


def figures(*, quick: bool) -> Iterator[Figure]:
    """How many times the useful tokens of a CPU second of CTranslate2 ours writes."""
    try:
        import ctranslate2  # noqa: F401
    except ModuleNotFoundError:
        print(
            "generation.ctranslate2 is left out: pip install 'charter[bench]' brings CTranslate2",
            file=sys.stderr,
        )
        return
    repeats = 1 if quick else 5
    asked = work(4, rows=2, shared=16, answer=6) if quick else work(48, rows=24)
    model = tiny.model().eval()
    theirs = peer(model)
    with closing(engine(model, capacity=asked.rows)) as ours:

        def measured(figure: str, *, by_callback: bool, goal: float | None) -> Figure:
            until = "ended by a callback" if by_callback else "as long as the longest beside it"
            return speedup(
                figure,
                ours=lambda: cpu_s(lambda: write(ours, asked)),
                theirs=lambda: cpu_s(lambda: write_peer(theirs, asked, by_callback=by_callback)),
                repeats=repeats,
                goal=goal,
                against=f"CTranslate2, cached static prompt, {asked.rows} rows, each {until}",
            )

        yield measured("generation.ctranslate2", by_callback=False, goal=1.4)
        yield measured("generation.ctranslate2.callback", by_callback=True, goal=None)


def work(records: int, *, rows: int, shared: int = 128, answer: int = 24) -> Work:
    """Random prompts, and answers of `answer` tokens on average."""
    rng = Random(0)
    typical = answer * math.exp(-(_SPREAD**2) / 2)

    def ids(count: int) -> list[int]:
        return rng.choices(range(tiny.VOCABULARY - 8), k=count)  # words, no control tokens

    return Work(
        prefix=ids(shared),
        prompts=[ids(rng.randint(_SHORTEST, _LONGEST)) for _ in range(records)],
        limits=[
            tiny.length(typical, spread=_SPREAD, longest=3 * answer, rng=rng)
            for _ in range(records)
        ],
        rows=rows,
    )


def engine(model: PreTrainedModel, *, capacity: int) -> Engine:
    """Our engine, to be closed."""
    return Engine(Scheduler(Network(model), capacity=capacity), name="tiny")


def write(engine: Engine, work: Work) -> list[list[int]]:
    """The answers' ids, by the engine."""
    engine.forget()  # or it would still know what it read in the repeat before
    writings = [
        Writing(
            prompt=work.prefix + prompt,
            sampling=Sampling(temperature=work.temperature, max_new_tokens=limit),
            seed=number,
            limit=limit,
            eos_ids=frozenset(),
        )
        for number, (prompt, limit) in enumerate(zip(work.prompts, work.limits, strict=True))
    ]
    for writing in writings:
        engine.submit(writing)
    for writing in writings:
        writing.result.result()
    return [writing.token_ids for writing in writings]


def peer(model: PreTrainedModel) -> Any:
    """CTranslate2's generator with the same weights."""
    from ctranslate2 import Generator
    from ctranslate2.converters import TransformersConverter

    transformers_logging.disable_progress_bar()
    tokenizer = tiny.tokenizer()
    tokenizer.bos_token = tokenizer.eos_token  # never used, yet CTranslate2 insists on one
    with tempfile.TemporaryDirectory() as folder:
        original, converted = Path(folder) / "original", Path(folder) / "converted"
        model.save_pretrained(original)
        tokenizer.save_pretrained(original)
        TransformersConverter(str(original)).convert(str(converted))
        return Generator(
            str(converted), device="cpu", inter_threads=1, intra_threads=1, compute_type="float32"
        )


def write_peer(generator: Any, work: Work, *, by_callback: bool) -> list[list[int]]:
    """The answers' ids, by CTranslate2, which knows one length for all rows of a batch.

    Either rows of about one length share a batch, and what they write beyond theirs is cut off; or
    a callback ends each row where it should, and prompts of about one length share a batch.
    """
    order = sorted(
        range(len(work.prompts)),
        key=lambda record: len(work.prompts[record]) if by_callback else work.limits[record],
    )
    answers: dict[int, list[int]] = {}
    for first in range(0, len(order), work.rows):
        batch = order[first : first + work.rows]
        limits = [work.limits[record] for record in batch]
        results = generator.generate_batch(
            [_tokens(work.prompts[record]) for record in batch],
            static_prompt=_tokens(work.prefix),
            cache_static_prompt=True,
            max_length=max(limits),
            min_length=max(limits),  # so that none draws the terminator
            include_prompt_in_result=False,
            sampling_topk=0 if work.temperature else 1,
            **({"callback": _ends(limits)} if by_callback else {}),
        )
        answers |= {
            record: result.sequences_ids[0][:limit]
            for record, result, limit in zip(batch, results, limits, strict=True)
        }
    return [answers[record] for record in range(len(order))]


def _ends(limits: list[int]) -> Callable[[Any], bool]:
    """Tells CTranslate2 after each token whether it was its row's last."""
    left = list(limits)

    def ends(step: Any) -> bool:
        left[step.batch_id] -= 1
        return left[step.batch_id] == 0

    return ends


def _tokens(ids: list[int]) -> list[str]:
    return [f"w{id_}" for id_ in ids]
