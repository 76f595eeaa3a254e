"""The answers of two runs' models to the same prompts, graded by one constitution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from charter.constitution import Constitution, Principle
from charter.errors import ConfigError, PromptError, RunError
from charter.evaluation.columns import BASE, STARTED_FROM
from charter.evaluation.figures import GradedAnswer
from charter.evaluation.graders import grade
from charter.evaluation.rates import about, of_kind
from charter.records import Kind, Prompt


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
    def columns(self) -> tuple[str, ...]:
        """The columns that there are answers of, in the order of the evaluation."""
        return tuple(dict.fromkeys(row.column for row in self.answers))

    def asked(self, column: str) -> dict[str, Prompt]:
        """The prompts, by id, that a column's model answered."""
        reached = {row.prompt_id for row in self.answers if row.column == column}
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


def shared_column(first: Answered, second: Answered, *, named: str | None = None) -> str:
    """The column in which two runs are compared: the one named, or the last trained of both.

    Raises:
        ConfigError: A run has no answers in the column that is named.
        RunError: No trained model's column is in both.
    """
    for run in (first, second):
        if named is not None and named not in run.columns:
            raise ConfigError(
                f"--column {named}: {run.run} has no answers in that column; it has "
                f"{', '.join(run.columns) or 'none'}"
            )
    if named is not None:
        return named
    in_both = [column for column in first.columns if column in second.columns]
    trained = [column for column in in_both if column in STARTED_FROM]
    if not trained:
        raise RunError(
            f"{first.run} has the columns {', '.join(first.columns)} and {second.run} "
            f"{', '.join(second.columns)}: no trained model's in both. Evaluate both with one more "
            "in `evaluate.columns` (--run NEW --reuse RUN), or name a column with --column."
        )
    return trained[-1]


def shared_prompts(first: Answered, second: Answered, *, column: str) -> frozenset[str]:
    """Ids of the prompts that both models answered: the same id and the same messages.

    Raises:
        PromptError: There are none.
    """
    ours, theirs = first.asked(column), second.asked(column)
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


def paired(
    owner: Answered, *, first: Answered, second: Answered, column: str, on: frozenset[str]
) -> Paired:
    """All answers to some prompts, graded as the owner's are: by its rules and prompts.

    Args:
        owner: One of the two runs.
        first: The run whose model is called the first.
        second: The other run.
        column: Of both models.
        on: Ids of the prompts, which both runs have.
    """
    prompts = {prompt.id: prompt for prompt in owner.prompts if prompt.id in on}

    def of(answered: Answered, name: str) -> list[GradedAnswer]:
        return [
            _graded(row, prompt=prompts[row.prompt_id], constitution=owner.constitution)
            for row in answered.answers
            if row.column == name and row.prompt_id in on
        ]

    return Paired(
        rules_of=owner.label,
        principles=owner.constitution.principles,
        labels=(first.label, second.label),
        base=of(first, BASE) or of(second, BASE),
        first=of(first, column),
        second=of(second, column),
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
