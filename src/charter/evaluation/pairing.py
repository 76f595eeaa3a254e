"""The answers of two runs' models to the same prompts, graded by one constitution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from charter.constitution import Constitution, Principle
from charter.errors import PromptError
from charter.evaluation.columns import BASE
from charter.evaluation.figures import GradedAnswer
from charter.evaluation.graders import grade
from charter.evaluation.rates import about, of_kind
from charter.records import Kind, Prompt

TRAINED = "sft"
"""The column of a trained model's answers."""


@dataclass(frozen=True)
class Answered:
    """What a run's models answered to its held-out prompts."""

    label: str
    """Names the run in the figures."""
    run: str
    """Where it lies."""
    constitution: Constitution
    """The one that it is graded by."""
    prompts: Sequence[Prompt]
    answers: Sequence[GradedAnswer]

    @property
    def asked(self) -> dict[str, Prompt]:
        """The prompts, by id, that the trained model answered."""
        reached = {row.prompt_id for row in self.answers if row.column == TRAINED}
        return {prompt.id: prompt for prompt in self.prompts if prompt.id in reached}


@dataclass(frozen=True)
class Paired:
    """Answers to the same prompts under the same grades, and whose model is which."""

    rules_of: str
    """The label of the run whose rules grade here, and whose tags and kinds the prompts have."""
    principles: tuple[Principle, ...]
    labels: tuple[str, str]
    base: Sequence[GradedAnswer]
    """Of the first run, if it has any."""
    first: Sequence[GradedAnswer]
    second: Sequence[GradedAnswer]

    def of_kind(self, kind: Kind) -> Paired:
        """The answers to prompts of one kind."""
        return self._only(lambda answers: of_kind(answers, kind))

    def about(self, principle_id: str) -> Paired:
        """The answers to prompts that a principle is about, as in an evaluation's figures."""
        return self._only(lambda answers: about(answers, principle_id))

    def _only(self, pick: Callable[[Sequence[GradedAnswer]], Sequence[GradedAnswer]]) -> Paired:
        return replace(self, base=pick(self.base), first=pick(self.first), second=pick(self.second))


def shared_prompts(first: Answered, second: Answered) -> frozenset[str]:
    """Ids of the prompts that both models answered: the same id and the same messages.

    Raises:
        PromptError: There are none.
    """
    ours, theirs = first.asked, second.asked
    in_both = ours.keys() & theirs.keys()
    same = frozenset(key for key in in_both if ours[key].messages == theirs[key].messages)
    if same:
        return same
    sides = f"{first.run} ({len(ours)} prompts) and {second.run} ({len(theirs)})"
    if in_both:
        raise PromptError(
            f"{sides}: {len(in_both)} ids of prompts are in both, but none with the same messages, "
            f"for one {min(in_both)!r}. Evaluate both runs on one file of held-out prompts, with "
            "the same `prompts.system`."
        )
    raise PromptError(
        f"{sides}: no prompt was answered by both. Evaluate both runs on one file of held-out "
        "prompts: `prompts.heldout`."
    )


def paired(owner: Answered, *, first: Answered, second: Answered, on: frozenset[str]) -> Paired:
    """All answers to some prompts, graded as the owner's are: by its rules and prompts.

    Args:
        owner: One of the two runs.
        first: The run whose model is called the first.
        second: The other run.
        on: Ids of the prompts, which both runs have.
    """
    prompts = {prompt.id: prompt for prompt in owner.prompts if prompt.id in on}

    def of(answered: Answered, column: str) -> list[GradedAnswer]:
        return [
            _graded(row, prompt=prompts[row.prompt_id], constitution=owner.constitution)
            for row in answered.answers
            if row.column == column and row.prompt_id in on
        ]

    return Paired(
        rules_of=owner.label,
        principles=owner.constitution.principles,
        labels=(first.label, second.label),
        base=of(first, BASE) or of(second, BASE),
        first=of(first, TRAINED),
        second=of(second, TRAINED),
    )


def is_base_shared(first: Answered, second: Answered, *, on: frozenset[str]) -> bool | None:
    """Whether both runs' base answers to some prompts are the same; None where one has none."""

    def said(answered: Answered) -> dict[tuple[str, int], str]:
        return {
            (row.prompt_id, row.sample): row.text
            for row in answered.answers
            if row.column == BASE and row.prompt_id in on
        }

    ours, theirs = said(first), said(second)
    in_both = ours.keys() & theirs.keys()
    return all(ours[key] == theirs[key] for key in in_both) if in_both else None


def _graded(answer: GradedAnswer, *, prompt: Prompt, constitution: Constitution) -> GradedAnswer:
    grades = grade(prompt, text=answer.text, principles=constitution.principles)
    return answer.model_copy(update={"kind": prompt.kind, "tags": prompt.tags, "grades": grades})
