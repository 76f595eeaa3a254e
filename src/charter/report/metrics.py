"""The parts of the feedback half's summaries that a page shows.

Every key may be missing, and others may be there: what a stage writes may grow without the page.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """Part of what a file holds: other keys are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Share(Part):
    """A share with its 95 % interval; None of nothing."""

    rate: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0


class Threshold(Part):
    """From which P(broken) screening counts a principle as broken."""

    value: float | None = None
    recall: float | None = None
    specificity: float | None = None
    tests: int = 0


class Screened(Part):
    """`metrics/screening.json`."""

    selection: str = ""
    threshold: Threshold | None = None


class TrainingResult(Part):
    """`training.json` beside a model's weights; losses are in nats."""

    examples: int
    validation_examples: int
    parameters: int
    trained_parameters: int
    lr: float
    planned_steps: int
    steps: int
    best_step: int
    validation_before: float | None = None
    validation_loss: float | None = None


class Consistency(Part):
    """What becomes of a judge's labels when the two responses change places."""

    n: int = 0
    position_bias: float | None = None
    toss_ups: float | None = None
    """Share of labels that are next to undecided in both orders."""
    firm_position_bias: float | None = None
    """Position bias among the others."""
    same_verdict: float | None = None
    self_agreement: float | None = None


class SureBin(Part):
    """Labels of about one confidence: how sure the judge was, and how often right."""

    n: int
    confidence: float
    accuracy: float


class Audit(Part):
    """How the judge did on pairs of which the better reply is known."""

    accuracy: Share = Share()
    calibration_error: float | None = None
    calibration: tuple[SureBin, ...] = ()
    consistency: Consistency = Consistency()
    by_principle: Mapping[str, Share] = {}
    unusable: Mapping[str, int] = {}
    """Tests without a verdict, by cause."""


class KindLabels(Part):
    """What became of the comparisons on prompts of one kind."""

    comparisons: int = 0
    identical: int = 0


class Labels(Part):
    """What the judge's labels are like."""

    consistency: Consistency = Consistency()
    by_kind: Mapping[str, KindLabels] = {}
    unusable_votes: Mapping[str, int] = {}
    """Sampled votes that could not be counted, by cause."""


class Comparing(Part):
    """`metrics/compare.json`."""

    audit: Audit | None = None
    labels: Labels | None = None
    failed: Mapping[str, int] = {}
    """Comparisons without a verdict, by cause."""
    judge_is_policy: bool = False
    preferences: Mapping[str, int] = {}
    """By source."""


class CalibrationBin(Part):
    """Held-out pairs of about one predicted probability."""

    n: int
    predicted: float
    observed: float


class Ordered(Part):
    """The share of pairs that rewards order as their labels say; None of no pairs."""

    accuracy: float | None = None
    n: int = 0


class ByLength(Part):
    """Whether length is taken for quality."""

    chosen_longer: Ordered = Ordered()
    chosen_shorter: Ordered = Ordered()
    correlation: float | None = None
    """Of reward with tokens."""


class Ordering(Part):
    """`metrics/reward.json` and `metrics/dpo.json`: how rewards order held-out pairs."""

    accuracy: Share = Share()
    auc: float | None = None
    ece: float | None = None
    calibration: tuple[CalibrationBin, ...] = ()
    by_principle: Mapping[str, Ordered] = {}
    by_source: Mapping[str, Ordered] = {}
    by_length: ByLength = ByLength()


class Reinforced(Part):
    """`models/rl/training.json`."""

    steps: int
    """Taken."""
    planned_steps: int
    kept_step: int
    """Whose weights the model has."""
    stopped: str | None = None
    """Why training ended before its last step."""
