"""Answers before and after training, drawn by chance: what the figures look like in words.

The draw is keyed by the run's seed and the ids, so nobody chose what is shown, and another report
of the same run shows the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, get_args

from charter.constitution import Constitution, Principle
from charter.evaluation.columns import BASE, last_trained
from charter.evaluation.figures import GradedAnswer, KindFigures, ModelFigures, Rate
from charter.evaluation.graders import matched
from charter.evaluation.rates import about, of_kind
from charter.evaluation.table import cell
from charter.records import Kind, Prompt
from charter.report.blocks import Badge, Drawn, Exchange, Exchanges, Piece, Said, Section
from charter.report.reading import Found
from charter.seeding import shuffled

_MOST = 10
_MOST_FAILURES = 5


class _Pair(NamedTuple):
    """Two columns' answers to one prompt under the same seed."""

    before: GradedAnswer
    after: GradedAnswer


def examples_section(found: Found) -> Section | None:
    """Answers by rule, then by kind of prompt; None without two columns to compare."""
    columns = dict.fromkeys(row.column for row in found.answers)
    if found.graded is None or BASE not in columns:
        return None
    after = last_trained(columns)
    if after == BASE:
        return None
    groups = tuple(_groups(found, found.graded, column=after))
    if not groups:
        return None
    return Section(
        anchor="answers",
        title="Before and after, in its own words",
        lead=f"Answers of {BASE} and {after} to the same prompt, drawn with the same random "
        f"numbers. Up to {_MOST} pairs for each rule, drawn by lot (the run's seed and the ids "
        "decide, not the grades), each of another prompt while there are enough. Failures that "
        "the lot passed over follow. What matched a rule's pattern is marked.",
        blocks=groups,
    )


def _groups(found: Found, rules: Constitution, *, column: str) -> Iterator[Exchanges]:
    pairs = _pairs(found.answers, column=column)
    harmful = of_kind((pair.after for pair in pairs.values()), "harmful")
    models = {
        name: found.evaluation.models[name]
        for name in (BASE, column)
        if found.evaluation is not None and name in found.evaluation.models
    }
    draw = _Draw(found.prompts, rules, seed=found.manifest.seed)
    for item in rules.principles:
        asked = [row for row in about(harmful, item.id) if item.applies_to(row.tags)]
        own = [pairs[row.prompt_id, row.sample] for row in asked]
        failed = [pair for pair in own if pair.after.grades.violations.get(item.id)]
        if own:
            summary = _broken(item, models)
            yield draw.exchanges(item.id, own, failed=failed, summary=summary)
    for kind in get_args(Kind)[1:]:
        own = [pair for pair in pairs.values() if pair.after.kind == kind]
        failed = [pair for pair in own if pair.after.grades.helpful is False]
        if own:
            summary = _helped(kind, models)
            yield draw.exchanges(f"{kind} prompts", own, failed=failed, summary=summary)


def _pairs(answers: Sequence[GradedAnswer], *, column: str) -> dict[tuple[str, int], _Pair]:
    """By prompt and sample: what both columns answered, in the order of the answers."""
    before = {(row.prompt_id, row.sample): row for row in answers if row.column == BASE}
    return {
        key: _Pair(before[key], row)
        for row in answers
        if row.column == column and (key := (row.prompt_id, row.sample)) in before
    }


def _broken(item: Principle, models: Mapping[str, ModelFigures]) -> str:
    """How often both columns break a principle."""
    return _rates(
        "broken",
        {
            name: model.principles[item.id].violation
            for name, model in models.items()
            if item.id in model.principles
        },
    )


def _helped(kind: Kind, models: Mapping[str, ModelFigures]) -> str:
    """How often both columns help."""
    return _rates("helped", {name: _of_kind(model, kind).helpful for name, model in models.items()})


def _of_kind(model: ModelFigures, kind: Kind) -> KindFigures:
    return {"harmful": model.harmful, "benign": model.benign, "borderline": model.borderline}[kind]


def _rates(what: str, rates: Mapping[str, Rate]) -> str:
    scored = {name: rate for name, rate in rates.items() if rate.n}
    return (
        f"{what}: " + ", ".join(f"{name} {cell(rate)}" for name, rate in scored.items())
        if scored
        else ""
    )


class _Draw(NamedTuple):
    """What drawing and showing pairs depends on."""

    prompts: Mapping[str, Prompt]
    rules: Constitution
    seed: int

    def exchanges(
        self, title: str, pairs: Sequence[_Pair], *, failed: Sequence[_Pair], summary: str
    ) -> Exchanges:
        """Pairs drawn from all, and from the failures that this draw missed."""
        shown = self.some(title, pairs, most=_MOST)
        missed = self.some(
            title, [pair for pair in failed if pair not in shown], most=_MOST_FAILURES
        )
        drawn = [Drawn(f"{len(shown)} of {len(pairs):,} pairs, by lot", self.shown(shown))]
        if missed:
            rest = len(failed) - sum(pair in shown for pair in failed)
            how = f"{len(missed)} of {rest:,} further failures after training, by lot"
            drawn.append(Drawn(how, self.shown(missed)))
        return Exchanges(title=title, summary=summary, drawn=tuple(drawn))

    def some(self, title: str, pairs: Sequence[_Pair], *, most: int) -> list[_Pair]:
        """At most so many of the pairs: each of another prompt while there are enough prompts."""
        by_id = {pair.after.id: pair for pair in pairs}
        lots = [by_id[key] for key in shuffled(by_id, self.seed, "report", title)]
        seen = Counter[str]()
        ranked: list[tuple[int, int, _Pair]] = []
        for place, pair in enumerate(lots):
            ranked.append((seen[pair.after.prompt_id], place, pair))
            seen[pair.after.prompt_id] += 1
        return [pair for _, _, pair in sorted(ranked, key=lambda each: each[:2])[:most]]

    def shown(self, pairs: Sequence[_Pair]) -> tuple[Exchange, ...]:
        """The pairs as they are read."""
        return tuple(
            Exchange(
                id=pair.after.prompt_id,
                turns=self._turns(pair.after.prompt_id),
                before=self._said(pair.before),
                after=self._said(pair.after),
            )
            for pair in pairs
        )

    def _turns(self, prompt_id: str) -> tuple[tuple[str, str], ...]:
        prompt = self.prompts.get(prompt_id)
        return tuple((turn.role, turn.content) for turn in prompt.messages) if prompt else ()

    def _said(self, answer: GradedAnswer) -> Said:
        broken = [item for item in self.rules.principles if answer.grades.violations.get(item.id)]
        patterns = [pattern for item in broken for pattern in item.patterns]
        return Said(
            column=answer.column,
            pieces=tuple(pieces(answer.text, matched(patterns, answer.text))),
            badges=tuple(_badges(answer, broken=[item.id for item in broken])),
        )


def pieces(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[Piece]:
    """The text in parts, those within a span marked; spans are in order and may overlap."""
    at = 0
    for start, end in spans:
        if start > at:
            yield Piece(text[at:start])
        if end > at:
            yield Piece(text[max(at, start) : end], is_marked=True)
            at = end
    if at < len(text) or not text:
        yield Piece(text[at:])


def _badges(answer: GradedAnswer, *, broken: Sequence[str]) -> Iterator[Badge]:
    """What the patterns say of an answer; nothing where they say nothing."""
    grades = answer.grades
    for name in broken:
        yield Badge(f"breaks {name}", "bad")
    if answer.kind != "harmful":
        if grades.refusal:
            yield Badge("refuses", "bad")
        elif grades.helpful is not None:
            yield Badge(
                "helps" if grades.helpful else "does not help", "good" if grades.helpful else "bad"
            )
        return
    if not broken and grades.violations:
        yield Badge("keeps the rules", "good")
    if grades.refusal:
        yield Badge("refuses, offers an alternative" if grades.alternative else "refuses", "plain")
