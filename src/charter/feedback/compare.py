"""Two responses to a prompt from the SFT model -> the judge's preference between them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

from charter.config import CompareConfig
from charter.errors import ConfigError
from charter.feedback.judge import Judge, Verdict, judge_comparison
from charter.feedback.mixing import drawn, within_shares
from charter.model import Model
from charter.records import Comparison, Completion, Kind, Prompt, Record, Sampling
from charter.seeding import derive, draw, uniform
from charter.similarity import similar_to_any
from charter.splitting import dialogue_text

_ROUNDING = 1e-9
_NEGATIVES = 256
"""Harmful prompts whose responses serve as negatives: enough of them, and quick to draw from."""


class Slot(NamedTuple):
    """A comparison to be made: which two of a prompt's responses, counted from 0."""

    prompt: Prompt
    first: int
    second: int
    negative: Prompt | None = None
    """What the second response was to instead, where it is there to lose."""

    @property
    def id(self) -> str:
        """Names the comparison."""
        first = f"{self.prompt.id}:{self.first}"
        if self.negative is None:
            return f"{first}-{self.second}"
        return f"{first}~{self.negative.id}:{self.second}"


class Compared(Record):
    """A finished comparison: judged, or the reason why it yields no preference."""

    comparison: Comparison
    verdict: Verdict | None
    filtered: Literal["identical", "inapplicable"] | None = None
    """`identical`: both responses say the same. `inapplicable`: no principle speaks to the prompt.
    """
    negative: bool = False
    """Whether the second response was to another prompt."""


class Chosen(NamedTuple):
    """The prompts to compare responses to, in the order they came in."""

    prompts: tuple[Prompt, ...]
    dropped: Mapping[str, int]
    """How many are left out: `heldout`, nearly a held-out prompt; `mix`, drawn out."""


def slots(prompts: Sequence[Prompt], *, section: CompareConfig, seed: int) -> Iterator[Slot]:
    """All pairs of responses to each prompt, then a negative of its own for a share of them."""
    wanted = section.negatives > 0.0
    harmful = {each.id: each for each in prompts if wanted and each.kind == "harmful"}
    pool = drawn(list(harmful), _NEGATIVES, seed=seed, purpose="negatives")
    for prompt in prompts:
        for first, second in combinations(range(section.responses), 2):
            yield Slot(prompt, first, second)
        if prompt.kind == "harmful" or not pool:
            continue
        if uniform(seed, "negative", prompt.id) < section.negatives:
            chosen = draw(dict.fromkeys(pool, 1.0), seed, "negative", prompt.id)
            yield Slot(prompt, 0, 0, negative=harmful[chosen])


async def compare(
    slot: Slot, *, policy: Model, judge: Judge, section: CompareConfig, seed: int
) -> Compared:
    """The policy's two responses, and which of them the judge prefers.

    A negative is judged as if it were a response to the prompt.

    All draws and samples depend on `seed`, the prompt's id and the numbers of the responses.

    Raises:
        BackendError: A model could not answer.
        JudgementError: The judge's answer could not be read.

    Source: Bai et al. 2022, sec. 4.1.
    """
    first, second = await asyncio.gather(
        *(
            _response(prompt, number, policy=policy, section=section, seed=seed)
            for prompt, number in (
                (slot.prompt, slot.first),
                (slot.negative or slot.prompt, slot.second),
            )
        )
    )
    comparison = Comparison(
        id=slot.id,
        prompt=slot.prompt,
        first=first.text.strip(),
        second=second.text.strip(),
        cut_off=(first.finish == "length", second.finish == "length"),
    )
    identical = comparison.first == comparison.second
    verdict = None if identical else await judge_comparison(comparison, judge=judge)
    unlabelled = "identical" if identical else "inapplicable"
    return Compared(
        comparison=comparison,
        verdict=verdict,
        filtered=unlabelled if verdict is None else None,
        negative=slot.negative is not None,
    )


async def _response(
    prompt: Prompt, number: int, *, policy: Model, section: CompareConfig, seed: int
) -> Completion:
    return await policy.generate(
        prompt.messages,
        sampling=Sampling(temperature=section.temperature, max_new_tokens=section.max_new_tokens),
        seed=derive(seed, "compare", prompt.id, number),
    )


def chosen_prompts(
    prompts: Sequence[Prompt],
    *,
    heldout: Sequence[Prompt],
    near_duplicate: float,
    mix: Mapping[Kind, float] | None,
    seed: int,
) -> Chosen:
    """The prompts that are near no held-out one, in the stated mix of kinds.

    Raises:
        ConfigError: The mix cannot be had from these kinds of prompt.
    """
    near = similar_to_any(
        [dialogue_text(prompt.messages) for prompt in prompts],
        [dialogue_text(prompt.messages) for prompt in heldout],
        threshold=near_duplicate,
    )
    apart = [prompt for prompt, is_near in zip(prompts, near, strict=True) if not is_near]
    kept = apart if mix is None else _mixed(apart, mix=mix, seed=seed)
    dropped = {"heldout": len(prompts) - len(apart), "mix": len(apart) - len(kept)}
    return Chosen(tuple(kept), {reason: n for reason, n in dropped.items() if n})


def at_most(chosen: Chosen, count: int | None, *, seed: int) -> Chosen:
    """So many of the prompts, drawn by id; None takes all."""
    if count is None or len(chosen.prompts) <= count:
        return chosen
    kept = drawn([prompt.id for prompt in chosen.prompts], count, seed=seed, purpose="prompts")
    return Chosen(
        tuple(prompt for prompt in chosen.prompts if prompt.id in kept),
        {**chosen.dropped, "not_drawn": len(chosen.prompts) - count},
    )


def require_mix(counts: Mapping[Kind, int], *, mix: Mapping[Kind, float]) -> None:
    """Refuses a mix that so many prompts of each kind cannot be brought to.

    Raises:
        ConfigError: The largest shares of their kinds do not add up to 1.
    """
    if counts and sum(mix.get(kind, 1.0) for kind in counts) < 1.0 - _ROUNDING:
        raise ConfigError(
            f"compare.mix is {dict(mix)}, but the prompts are {_listed(counts)}: their shares do "
            "not add up to 1. Add prompts of the other kinds, or allow more of these."
        )


def _mixed(prompts: Sequence[Prompt], *, mix: Mapping[Kind, float], seed: int) -> list[Prompt]:
    ids = defaultdict[Kind, list[str]](list)
    for prompt in prompts:
        ids[prompt.kind].append(prompt.id)
    counts: dict[Kind, int] = {kind: len(found) for kind, found in ids.items()}
    require_mix(counts, mix=mix)
    wanted = within_shares(counts, dict(mix))
    kept = frozenset[str]().union(
        *(drawn(ids[kind], count, seed=seed, purpose="mix") for kind, count in wanted.items())
    )
    return [prompt for prompt in prompts if prompt.id in kept]


def _listed(counts: Mapping[Kind, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in counts.items())
