"""What was trained on preferences: the reward model, and a policy directly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from charter.evaluation.figures import RewardFigures
from charter.report.blocks import (
    Block,
    Cell,
    Chart,
    Fact,
    Facts,
    Panel,
    Row,
    Rows,
    Section,
    Table,
)
from charter.report.cells import percent, text_of
from charter.report.charts import Dot, calibration_chart
from charter.report.lessons import training_panel
from charter.report.metrics import Comparing, Ordered, Ordering
from charter.report.reading import Found, Training

_SOURCES: Mapping[tuple[str, ...], str] = {
    ("judge", "negative"): "the judge's preferences",
    ("human",): "people's preferences",
    ("revision",): "revisions preferred to what they revise",
    ("misplaced",): "revisions preferred to those of other prompts",
}
"""What a model is trained on, by the sources that are called so."""


def rewarding_section(found: Found) -> Section | None:
    """How good the reward model is; None where none was trained."""
    told = found.evaluation.reward if found.evaluation else None
    blocks = tuple(_blocks(found.reward, found.reward_training, told=told))
    return (
        Section(
            anchor="reward",
            title="The reward model",
            lead=f"Trained on {_trained_on(found, found.reward)}. It is good if it orders pairs of "
            "prompts that it has not seen as their labels do, and is as sure as they are.",
            blocks=blocks,
        )
        if blocks
        else None
    )


def dpo_section(found: Found) -> Section | None:
    """How a policy was trained on preferences without a reward model; None where none was."""
    blocks = tuple(_blocks(found.dpo, found.dpo_training))
    return (
        Section(
            anchor="dpo",
            title="Direct preference optimisation",
            lead=f"Trained on {_trained_on(found, found.dpo)}, without a reward model. How far it "
            "moved from the SFT model implies a reward for every response; here is how those order "
            "pairs.",
            blocks=blocks,
        )
        if blocks
        else None
    )


def _trained_on(found: Found, ordering: Ordering | None) -> str:
    """Whose preferences: people's alone need no comparing, and held-out pairs name them."""
    made = (found.comparing or Comparing()).preferences
    held_out = (ordering or Ordering()).by_source
    sources = {name for name, n in made.items() if n} or {*held_out}
    *others, last = [
        words for names, words in _SOURCES.items() if not sources.isdisjoint(names)
    ] or ["preferences"]
    return f"{', '.join(others)} and {last}" if others else last


def _blocks(
    ordering: Ordering | None, training: Training | None, *, told: RewardFigures | None = None
) -> Iterator[Block]:
    if ordering is not None:
        facts = (
            Facts("On held-out pairs", tuple(_facts(ordering))),
            Facts("By the length of responses", tuple(_by_length(ordering))),
            Facts("On answers that the patterns tell apart", tuple(_told(told) if told else ())),
        )
        yield Panel(
            charts=(_calibration(ordering),) if ordering.calibration else (),
            facts=tuple(group for group in facts if group.facts),
        )
    if training is not None:
        yield training_panel(training, examples="preferences", unit="pair")
    if ordering is not None and ordering.by_principle:
        yield _by_principle(ordering)


def _facts(ordering: Ordering) -> Iterator[Fact]:
    if ordering.accuracy.rate is not None:
        yield Fact("ordered as labelled", text_of(ordering.accuracy))
    for source, ordered in ordering.by_source.items():
        if ordered.accuracy is not None:
            yield Fact(f"labels of source {source}", _text(ordered))
    if ordering.auc is not None:
        yield Fact("area under the ROC curve", f"{ordering.auc:.3f}")
    if ordering.ece is not None:
        yield Fact("calibration error", percent(ordering.ece))


def _by_length(ordering: Ordering) -> Iterator[Fact]:
    """Whether length is taken for quality."""
    found = ordering.by_length
    for name, ordered in (("longer", found.chosen_longer), ("shorter", found.chosen_shorter)):
        if ordered.accuracy is not None:
            yield Fact(f"right where the {name} is better", _text(ordered))
    if found.correlation is not None:
        yield Fact("correlation of reward and tokens", f"{found.correlation:+.2f}")


def _told(found: RewardFigures) -> Iterator[Fact]:
    """Whether answers to held-out prompts are rewarded as the patterns would have it."""
    if found.violation.rate is not None:
        yield Fact("kept rule over broken rule", text_of(found.violation))
    if found.helpful.rate is not None:
        yield Fact("help over no help", text_of(found.helpful))


def _text(ordered: Ordered) -> str:
    assert ordered.accuracy is not None
    return f"{percent(ordered.accuracy)} of {ordered.n:,}"


def _by_principle(ordering: Ordering) -> Table:
    rows = (
        Row(name, (Cell(percent(ordered.accuracy)), Cell(f"{ordered.n:,}")))
        for name, ordered in ordering.by_principle.items()
        if ordered.accuracy is not None
    )
    return Table(
        caption="Held-out pairs of each rule that are ordered as labelled",
        header=("", "right", "pairs"),
        sections=(Rows("", tuple(rows)),),
        fold="By rule",
    )


def _calibration(ordering: Ordering) -> Chart:
    dots = [
        Dot(
            each.predicted,
            each.observed,
            each.n,
            f"{each.n} pairs: {percent(each.predicted)} predicted, "
            f"{percent(each.observed)} labelled",
        )
        for each in ordering.calibration
    ]
    picture = calibration_chart(
        dots,
        label="The labels of held-out pairs by what the rewards predict: "
        + "; ".join(dot.title for dot in dots),
        x_label="reward: P(better)",
        y_label="label: P(better)",
    )
    return Chart("Calibration", picture, "On the dashed line, it is as sure as the labels are.")
