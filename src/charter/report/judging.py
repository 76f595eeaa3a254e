"""The judge, who labels and grades: whether it can be believed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from charter.evaluation.figures import JudgeGrader
from charter.evaluation.judging import Agreement
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
    Words,
)
from charter.report.cells import of_share, percent, text_of
from charter.report.charts import Dot, calibration_chart
from charter.report.metrics import Audit, Comparing, Consistency, Screened, Share
from charter.report.reading import Found

_CAUSES = {
    "JudgementError": "unreadable",
    "BackendError": "no answer",
    "OverlongError": "too long",
    "vote_for_both": "for both answers",
    "vote_cut_off": "cut off",
    "no_vote": "for neither",
}
"""Why a judge's answer does not count, in words; other causes go by their own names."""


def judging_section(found: Found) -> Section | None:
    """What is known about the judge; None where it was not asked."""
    blocks = tuple(_blocks(found))
    if not blocks:
        return None
    return Section(
        anchor="judge",
        title="The judge",
        lead="A model that chooses between answers and grades them. Where a rule has patterns, "
        "these decide and not the judge; here is how far the two agree, and how the judge does on "
        "the rules' own tests, of which the right answer is known.",
        blocks=blocks,
    )


def _blocks(found: Found) -> Iterator[Block]:
    comparing = found.comparing
    audit = comparing.audit if comparing else None
    grader = found.evaluation.graders.judge if found.evaluation else None
    groups = (
        Facts("On the rules' own tests", tuple(_audited(audit) if audit else ())),
        Facts("On the labels for training", tuple(_labelled(comparing) if comparing else ())),
        Facts("As a grader of answers", tuple(_graded(grader) if grader else ())),
        Facts("As a screen before critique", tuple(_screened(found.screened))),
    )
    facts = tuple(group for group in groups if group.facts)
    charts = (_calibration(audit),) if audit and audit.calibration else ()
    if facts or charts:
        yield Panel(charts=charts, facts=facts)
    if grader is not None and grader.same_as_training:
        yield Words(
            "The judge that grades also criticised, revised or labelled the training data. Its "
            "figures may flatter the trained model; the headline figures come from patterns.",
            tone="warning",
        )
    if comparing is not None and comparing.judge_is_policy:
        yield Words("The judge is the model whose responses it compares.", tone="warning")
    if audit and audit.by_principle:
        yield _by_principle(
            audit.by_principle, caption="Tests of each rule that the judge decides rightly"
        )


def _by_principle(shares: Mapping[str, Share], *, caption: str) -> Table:
    """A share for each principle."""
    rows = (Row(name, (of_share(share), Cell(f"{share.n:,}"))) for name, share in shares.items())
    return Table(
        caption=caption,
        header=("", "right", "pairs"),
        sections=(Rows("", tuple(rows)),),
        fold="By rule",
    )


def _audited(audit: Audit) -> Iterator[Fact]:
    yield Fact("right", text_of(audit.accuracy))
    if any(audit.unusable.values()):
        yield Fact("no usable verdict", _unusable(audit.unusable, usable=audit.accuracy.n))
    if audit.calibration_error is not None:
        yield Fact("calibration error", percent(audit.calibration_error))
    yield from _consistent(audit.consistency)


def _labelled(comparing: Comparing) -> Iterator[Fact]:
    """The preferences that it gave for training, and those that it could not give."""
    if comparing.preferences:
        sources = ", ".join(f"{name} {n:,}" for name, n in comparing.preferences.items() if n)
        yield Fact("preferences by source", sources)
    if comparing.labels is not None:
        kinds = comparing.labels.by_kind.values()
        identical, pairs = (
            sum(each.identical for each in kinds),
            sum(each.comparisons for each in kinds),
        )
        if pairs:
            yield Fact("identical, so not judged", f"{identical:,} of {pairs:,} pairs")
        yield from _consistent(comparing.labels.consistency)
        votes = comparing.labels.unusable_votes
        if any(votes.values()):
            yield Fact("votes that could not be counted", _causes(votes))
    if any(comparing.failed.values()):
        usable = comparing.labels.consistency.n if comparing.labels else 0
        yield Fact("no usable verdict", _unusable(comparing.failed, usable=usable))


def _unusable(causes: Mapping[str, int], *, usable: int) -> str:
    """How many verdicts are missing, of all that were asked for, and why."""
    missing = sum(causes.values())
    return f"{missing:,} of {missing + usable:,}: {_causes(causes)}"


def _causes(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{_CAUSES.get(cause, cause)} {n:,}" for cause, n in counts.items() if n)


def _consistent(found: Consistency) -> Iterator[Fact]:
    """What becomes of verdicts when the two answers change places."""
    if found.position_bias is not None:
        yield Fact("decided by position", f"{percent(found.position_bias)} of {found.n:,}")
    if found.toss_ups is not None:
        yield Fact("toss-ups: less than 60 % sure", f"{percent(found.toss_ups)} of {found.n:,}")
        if found.firm_position_bias is not None:
            firm = round(found.n * (1.0 - found.toss_ups))
            yield Fact(
                "decided by position, toss-ups aside",
                f"{percent(found.firm_position_bias)} of {firm:,}",
            )
    if found.self_agreement is not None:
        yield Fact("self-agreement", percent(found.self_agreement))


def _graded(grader: JudgeGrader) -> Iterator[Fact]:
    for name, agreement in (("rules broken", grader.violation), ("help", grader.helpful)):
        if agreement.agreed is not None:
            yield Fact(f"agrees with patterns on {name}", _agreed(agreement))
    yield Fact("a rule counts as broken from", f"P = {grader.threshold:.2f}")


def _agreed(agreement: Agreement) -> str:
    kappa = "" if agreement.kappa is None else f", kappa {agreement.kappa:.2f}"
    assert agreement.agreed is not None
    return f"{percent(agreement.agreed)} of {agreement.n:,}{kappa}"


def _screened(screened: Screened | None) -> Iterator[Fact]:
    """Screening is a judge too: it says which rule a response may break."""
    threshold = screened.threshold if screened else None
    if threshold and threshold.recall is not None and threshold.specificity is not None:
        yield Fact("breaches that it sees", f"{percent(threshold.recall)} of the tests'")
        yield Fact("good replies that it lets through", percent(threshold.specificity))


def _calibration(audit: Audit) -> Chart:
    dots = [
        Dot(
            each.confidence,
            each.accuracy,
            each.n,
            f"{each.n} tests: {percent(each.confidence)} sure, {percent(each.accuracy)} right",
        )
        for each in audit.calibration
    ]
    picture = calibration_chart(
        dots,
        label="How often the judge is right on the rules' tests, by how sure it is: "
        + "; ".join(dot.title for dot in dots),
        x_label="how sure the judge is",
        y_label="how often it is right",
        low=0.5,
    )
    return Chart("Calibration", picture, "On the dashed line, it is as often right as it is sure.")
