"""What evaluation writes: graded answers (`answers.jsonl`) and figures (`evaluation.json`).

Scripts rely on the form of the figures: keys are added, never renamed. A figure of nothing scored
is null, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping

from charter.evaluation.graders import Grades
from charter.evaluation.judging import Agreement, Judgement
from charter.records import Finish, Kind, Record, Usage


class GradedAnswer(Record):
    """One answer of one column, with everything that was found out about it."""

    id: str
    column: str
    prompt_id: str
    kind: Kind
    tags: tuple[str, ...] = ()
    """Of the prompt."""
    sample: int
    """Which of the column's answers to the prompt it is, from 0."""
    text: str
    finish: Finish = "stop"
    """How it ended; `length` means it was cut off."""
    grades: Grades
    judgement: Judgement | None
    """None where no judge graded it."""
    usage: Usage
    calls: int


class HeadToHead(Record):
    """Two columns' answers to one prompt, compared; a row of `head_to_head.jsonl`."""

    id: str
    first: str
    """A column; its answer, like the other's, is the one with this prompt and sample."""
    second: str
    prompt_id: str
    kind: Kind
    tags: tuple[str, ...] = ()
    """Of the prompt."""
    sample: int
    principle_ids: tuple[str, ...] = ()
    """What the judge was asked about; empty for helpfulness alone, and where nobody was asked."""
    p_first_shown_first: float | None
    """The judge's probability of `first` when it stood first; None where both say the same, which
    is a tie that nobody was asked about."""
    p_first_shown_second: float | None

    @property
    def p_first(self) -> float:
        """Probability that `first` is the better answer, averaged over both orders."""
        if self.p_first_shown_first is None or self.p_first_shown_second is None:
            return 0.5
        return 0.5 * (self.p_first_shown_first + self.p_first_shown_second)


class Rate(Record):
    """A share of answers with its 95 % interval, clustered by prompt."""

    rate: float | None
    low: float | None
    high: float | None
    n: int
    """Answers that could be scored."""


class Mean(Record):
    """A mean over prompts with its 95 % interval; a single prompt has none."""

    mean: float | None
    low: float | None
    high: float | None
    n: int
    """Answers."""


class JudgedFigures(Record):
    """What a judge says of a column's answers to prompts of one kind."""

    violation: Rate
    helpful: Rate


class KindFigures(Record):
    """A column's answers to the prompts of one kind; the meanings are `Grades`'."""

    n: int
    violation: Rate
    helpful: Rate
    refusal: Rate
    alternative: Rate
    neither: Rate
    characters: Mean
    tokens: Mean
    """Read and written for an answer, by all models asked."""
    calls: Mean
    judge: JudgedFigures | None


class PrincipleFigures(Record):
    """A column's answers to the harmful prompts that a principle is about.

    These are the prompts that are tagged with its id; where none is, all that it applies to.
    """

    n: int
    violation: Rate
    judge: Rate | None
    """The same by the judge."""


class GroupFigures(Record):
    """A column's answers to the harmful prompts of a group, which is told by a tag."""

    n: int
    violation: Rate
    helpful: Rate
    refusal: Rate
    alternative: Rate


class ModelFigures(Record):
    """Everything measured on one column."""

    harmful: KindFigures
    benign: KindFigures
    borderline: KindFigures
    principles: Mapping[str, PrincipleFigures]
    groups: Mapping[str, GroupFigures] = {}
    """For each tag in `evaluate.groups` the harmful prompts with it, under the tag, and those
    without it, under `not TAG`."""


class Difference(Record):
    """Rate of `first` minus rate of `second`, paired by prompt, with its 95 % interval.

    Every column is set against `base`, a trained one against the model it started from too.
    """

    first: str
    second: str
    on: str
    """A kind of prompt or a group; see `ModelFigures.groups`."""
    metric: str
    difference: float
    low: float
    high: float
    n: int
    """Prompts that both have scored answers to."""


class WinRate(Record):
    """How often a judge preferred `first` to `second`, with its 95 % interval.

    Asked in both orders; the mean probability decides, and a tie counts half.
    """

    first: str
    second: str
    on: str
    """A kind of prompt, a group (see `ModelFigures.groups`), or `all`."""
    win_rate: float
    low: float
    high: float
    n: int
    """Pairs of answers."""
    ties: int
    """Pairs that say the same, which nobody was asked about, or that the judge finds equal."""
    p_first: float
    """The mean probability of `first`: a sure judge counts for more than in `win_rate`."""
    position_bias: float | None
    """Share of the pairs asked about in which the judge chose the same place in both orders; None
    where it was asked about none."""


class PatternGraders(Record):
    """What was graded without a judge, and what could not be."""

    principles: tuple[str, ...]
    """Principles with patterns."""
    unscored: tuple[str, ...]
    """Principles without: no violation of them is counted above."""
    refusal: str = "English phrases"


class JudgeGrader(Record):
    """The judge, and whether it can be believed."""

    model: str
    """Its fingerprint."""
    same_as_training: bool
    threshold: float
    """P(broken) from which it counts a principle as broken."""
    violation: Agreement
    """With the patterns, on harmful prompts."""
    helpful: Agreement
    """With `expects`, on benign and borderline prompts."""


class Graders(Record):
    """Who graded."""

    patterns: PatternGraders
    judge: JudgeGrader | None


class RewardFigures(Record):
    """How often a reward model gives the better of two answers to a prompt the higher reward.

    Which one is better, the patterns say: they had no part in its training.
    """

    violation: Rate
    """On harmful prompts, where one answer breaks a rule and the other does not."""
    helpful: Rate
    """On benign and borderline prompts, where one answer helps and the other does not."""
    overlong: int = 0
    """Pairs that the reward model cannot read."""


class Evaluation(Record):
    """All columns side by side; `evaluation.json`."""

    models: Mapping[str, ModelFigures]
    comparisons: tuple[WinRate, ...] = ()
    """Head to head, where answers were compared by a judge."""
    differences: tuple[Difference, ...]
    graders: Graders
    reward: RewardFigures | None = None
    """Of the run's reward model on answers of `base` and `sft`; None where there is none."""
