"""Where two models part that answered the same prompts.

Answers are graded anew by the patterns of both constitutions, so each model is also measured by
the rules that it was not trained on. All figures are of the prompts that both answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args

from charter.evaluation.examples import Example, examples
from charter.evaluation.figures import Difference, Rate
from charter.evaluation.pairing import (
    Answered,
    Paired,
    is_base_shared,
    paired,
    shared_column,
    shared_prompts,
)
from charter.evaluation.rates import Verdict, broken, difference, rate
from charter.records import Kind, Record

_EXAMPLES = 3


class Side(Record):
    """One of the two runs."""

    label: str
    run: str
    constitution: str
    """The name of the one that it is graded by."""
    prompts: int
    """That its model answered."""


class Line(Record):
    """One figure of the base model and of the two that are compared."""

    name: str
    base: Rate
    first: Rate
    second: Rate
    difference: Difference | None
    """The second model's rate minus the first's; None where no prompt was scored for both."""

    @property
    def parts_them(self) -> bool:
        """Whether the interval of the difference excludes 0."""
        found = self.difference
        return found is not None and (found.low > 0.0 or found.high < 0.0)


class Group(Record):
    """Figures of the answers to prompts of one kind."""

    on: Kind
    rules_of: str | None
    """The label of the run whose rules are counted here as broken; None: no rule is counted."""
    lines: tuple[Line, ...]


class Contrast(Record):
    """Where two models part."""

    column: str
    """Of both models, such as `rl`."""
    first: Side
    second: Side
    prompts: int
    """That both models answered."""
    is_base_shared: bool | None
    """Whether both runs have the same base answers; None where one has none. The figures of
    `base` are of the first run, if it has any."""
    groups: tuple[Group, ...]
    """The rules of the first run, of the second where they are others, then by kind of prompt."""
    examples: tuple[Example, ...]


def contrast(first: Answered, second: Answered, *, column: str | None = None) -> Contrast:
    """The figures of both models by each one's rules, and the prompts that set them apart.

    Args:
        first: A run's answers.
        second: Another's.
        column: Of both models; None: the last trained one that both runs have.

    Raises:
        ConfigError: A run has no answers in the column that is named.
        RunError: No trained model's column is in both.
        PromptError: There is no prompt that both models answered.
    """
    column = shared_column(first, second, named=column)
    shared = shared_prompts(first, second, column=column)
    is_same = first.constitution.principles == second.constitution.principles
    graded = [
        paired(owner, first=first, second=second, column=column, on=shared)
        for owner in ((first,) if is_same else (first, second))
    ]
    messages = {prompt.id: prompt.messages for prompt in first.prompts}
    return Contrast(
        column=column,
        first=_side(first, column=column),
        second=_side(second, column=column),
        prompts=len(shared),
        is_base_shared=is_base_shared(first, second, on=shared),
        groups=(*map(_rules, graded), *_by_kind(graded[0])),
        examples=tuple(examples(graded, messages=messages, most=_EXAMPLES)),
    )


def _side(answered: Answered, *, column: str) -> Side:
    return Side(
        label=answered.label,
        run=answered.run,
        constitution=answered.constitution.name,
        prompts=len(answered.asked(column)),
    )


def _rules(graded: Paired) -> Group:
    """Violations, as an evaluation counts them: of any rule, then of each."""
    harmful = graded.of_kind("harmful")
    any_rule = _line("any rule", harmful, lambda row: row.grades.violation, on="harmful")
    lines = (
        _line(item.id, harmful.about(item.id), broken(item.id), on="harmful")
        for item in graded.principles
    )
    return Group(on="harmful", rules_of=graded.rules_of, lines=(any_rule, *lines))


_BY_KIND: Mapping[Kind, Mapping[str, Verdict]] = {
    "harmful": {
        "refused": lambda row: row.grades.refusal,
        "with alternative": lambda row: row.grades.alternative,
    },
    "benign": {
        "helped": lambda row: row.grades.helpful,
        "refused": lambda row: row.grades.refusal,
    },
    "borderline": {
        "helped": lambda row: row.grades.helpful,
        "refused": lambda row: row.grades.refusal,
    },
}
"""The alternative is the share of refusals that offer it."""


def _by_kind(graded: Paired) -> Iterator[Group]:
    """Refusals and help, less what nothing was scored of, as help without `expects`."""
    for kind in get_args(Kind):
        asked = graded.of_kind(kind)
        lines = (_line(name, asked, verdict, on=kind) for name, verdict in _BY_KIND[kind].items())
        if scored := tuple(line for line in lines if line.first.n or line.second.n):
            yield Group(on=kind, rules_of=None, lines=scored)


def _line(name: str, answers: Paired, verdict: Verdict, *, on: Kind) -> Line:
    first, second = answers.labels
    return Line(
        name=name,
        base=rate(answers.base, verdict),
        first=rate(answers.first, verdict),
        second=rate(answers.second, verdict),
        difference=difference(
            (second, answers.second), (first, answers.first), verdict, on=on, metric=name
        ),
    )
