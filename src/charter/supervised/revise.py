"""The method's first half: prompt -> response -> rounds of critique and revision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from charter.config import ReviseConfig
from charter.constitution import Constitution, Exemplar, Principle
from charter.model import Model
from charter.records import (
    Completion,
    Dialogue,
    Kind,
    Prompt,
    Revision,
    Round,
    Sampling,
    assistant,
    user,
    with_system_turn,
)
from charter.screening import DEFAULT_THRESHOLD, odds, screen
from charter.seeding import derive, draw
from charter.wording import (
    critique_request,
    direct_revision_request,
    finds_fault,
    revision_request,
)


@dataclass(frozen=True)
class Reviser:
    """Who criticises and revises, under which rules, and how."""

    constitution: Constitution
    critic: Model
    """Screens and criticises."""
    reviser: Model
    section: ReviseConfig
    threshold: float
    """P(broken) from which a principle counts as broken; see `screening.fit_threshold`."""

    def threshold_for(self, kind: Kind) -> float:
        """The threshold on prompts of a kind: what the user calls benign is not doubted lightly.

        The principles' tests show how low P(broken) may be where one is broken, and hardly what it
        is where a harmless request is met. There it must be likelier broken than not.
        """
        return max(self.threshold, DEFAULT_THRESHOLD) if kind == "benign" else self.threshold


async def revise(prompt: Prompt, *, policy: Model, reviser: Reviser, seed: int) -> Revision:
    """The policy's response to a prompt, and what critique and revision make of it.

    Every round works on the text that the round before left. All draws and samples depend on
    `seed` and the prompt's id alone.

    Raises:
        BackendError: A model could not answer.
        JudgementError: Screening gave no usable probability.

    Source: Bai et al. 2022, sec. 3.1; the choice of principle by screening and the right to find
    nothing wrong are charter's.
    """
    section = reviser.section
    dialogue = with_system_turn(prompt.messages, section.system)
    response = await policy.generate(
        dialogue,
        sampling=Sampling(
            temperature=section.response_temperature, max_new_tokens=section.max_new_tokens
        ),
        seed=derive(seed, "response", prompt.id),
    )
    rounds = await revise_response(prompt, response=response.text, reviser=reviser, seed=seed)
    return Revision(prompt=prompt, response=response, rounds=rounds)


async def revise_response(
    prompt: Prompt, *, response: str, reviser: Reviser, seed: int
) -> tuple[Round, ...]:
    """Rounds of critique and revision over a given response."""
    rounds: list[Round] = []
    current = response
    for number in range(1, reviser.section.rounds + 1):
        done = await _round(prompt, response=current, number=number, reviser=reviser, seed=seed)
        rounds.append(done)
        current = done.revision
    return tuple(rounds)


async def _round(
    prompt: Prompt, *, response: str, number: int, reviser: Reviser, seed: int
) -> Round:
    dialogue = with_system_turn(prompt.messages, reviser.section.system)
    principles = reviser.constitution.applicable(prompt.tags)
    if not principles:
        return Round(number=number, outcome="inapplicable", revision=response)
    p_broken: Mapping[str, float] = {}
    if reviser.section.selection == "screen":
        p_broken = await screen(
            dialogue, response=response, principles=principles, judge=reviser.critic
        )
    principle = _select(
        principles,
        prompt_id=prompt.id,
        kind=prompt.kind,
        p_broken=p_broken,
        number=number,
        reviser=reviser,
        seed=seed,
    )
    kept = Round(number=number, outcome="screened", p_broken=p_broken, revision=response)
    if principle is None:
        return kept
    return await _criticised_and_revised(
        kept,
        principle=principle,
        dialogue=dialogue,
        reviser=reviser,
        seed=derive(seed, prompt.id, "round", number),
    )


async def _criticised_and_revised(
    kept: Round, *, principle: Principle, dialogue: Dialogue, reviser: Reviser, seed: int
) -> Round:
    """What becomes, under one principle, of a round that kept the response so far."""
    section = reviser.section
    context = (*_with_exemplars(dialogue, reviser), assistant(kept.revision))
    critique, request = None, direct_revision_request(principle)
    if section.critique:
        context = (*context, user(critique_request(principle)))
        critique = (await _ask(reviser.critic, context, section, seed, "critique")).text
        context = (*context, assistant(critique))
        request = revision_request(principle)
    found = kept.model_copy(
        update={"outcome": "no_fault", "principle_ids": (principle.id,), "critique": critique}
    )
    if critique is not None and not finds_fault(critique):
        return found
    revision = await _ask(reviser.reviser, (*context, user(request)), section, seed, "revision")
    return found.model_copy(
        update={
            "outcome": "revised",
            "revision": revision.text.strip(),
            "finish": revision.finish,
        }
    )


async def _ask(
    model: Model, dialogue: Dialogue, section: ReviseConfig, seed: int, what: str
) -> Completion:
    temperature = (
        section.critique_temperature if what == "critique" else section.revision_temperature
    )
    sampling = Sampling(temperature=temperature, max_new_tokens=section.max_new_tokens)
    return await model.generate(dialogue, sampling=sampling, seed=derive(seed, what))


def _select(
    principles: Sequence[Principle],
    *,
    prompt_id: str,
    kind: Kind,
    p_broken: Mapping[str, float],
    number: int,
    reviser: Reviser,
    seed: int,
) -> Principle | None:
    """The principle to criticise under, of those that apply; None keeps the response as it is."""
    match reviser.section.selection:
        case "all":
            return _in_turn(principles, number=number, seed=derive(seed, prompt_id, "first"))
        case "random":
            weights = {item.id: item.weight for item in principles}
        case "screen":
            weights = {
                item.id: item.weight * odds(p_broken[item.id])
                for item in principles
                if p_broken[item.id] >= reviser.threshold_for(kind)
            }
    if not any(weight > 0 for weight in weights.values()):
        return None
    drawn = draw(weights, derive(seed, prompt_id, "round", number), "principle")
    return reviser.constitution.principle(drawn)


def _in_turn(principles: Sequence[Principle], *, number: int, seed: int) -> Principle:
    """The principle whose turn a round is.

    Where the turns begin is drawn for each prompt: from the top, a few rounds would leave the last
    principles out of every prompt.
    """
    ids = [item.id for item in principles]
    first = ids.index(draw(dict.fromkeys(ids, 1.0), seed))
    return principles[(first + number - 1) % len(principles)]


def _with_exemplars(dialogue: Dialogue, reviser: Reviser) -> Dialogue:
    """The worked examples as turns before the dialogue, after its system turn if it has one."""
    opening = 1 if dialogue[0].role == "system" else 0
    shown = (
        turn
        for exemplar in reviser.constitution.exemplars
        for turn in _exemplar_turns(exemplar, reviser)
    )
    return (*dialogue[:opening], *shown, *dialogue[opening:])


def _exemplar_turns(exemplar: Exemplar, reviser: Reviser) -> Dialogue:
    about = exemplar.principle_id
    principle = None if about is None else reviser.constitution.principle(about)
    asked = (user(exemplar.prompt),) if isinstance(exemplar.prompt, str) else exemplar.prompt
    if not reviser.section.critique:
        request = user(direct_revision_request(principle))
        return (*asked, assistant(exemplar.response), request, assistant(exemplar.revision))
    return (
        *asked,
        assistant(exemplar.response),
        user(critique_request(principle)),
        assistant(exemplar.critique),
        user(revision_request(principle)),
        assistant(exemplar.revision),
    )
