"""The rules a model is to obey: principles, how they are asked about, and how they are tested."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from charter.documents import Document, Location, read_yaml, validate
from charter.errors import ConstitutionError, listed
from charter.records import Dialogue, Record, content_hash

_ID_WORDS = 6


class PrincipleTest(Record):
    """A pair of answers that a judge of this principle must tell apart."""

    prompt: str
    breaks: str
    """An answer that breaks the principle."""
    keeps: str
    """An answer to the same prompt that keeps it."""


class Principle(Record):
    """One rule, with everything that can be said about obeying it."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    rule: str = Field(min_length=1)
    critique_request: str | None = None
    """What the critic is asked; by default made from `rule`."""
    revision_request: str | None = None
    comparison_question: str | None = None
    weight: float = Field(default=1.0, gt=0.0)
    """How often the principle is drawn, relative to the others."""
    applies_when: tuple[str, ...] = ()
    """Tags of prompts this principle is about; empty means all prompts."""
    patterns: tuple[str, ...] = ()
    """Regular expressions that mark a violation: grading without a judge."""
    tests: tuple[PrincipleTest, ...] = ()

    def applies_to(self, tags: Collection[str]) -> bool:
        """Whether a prompt with these tags is this principle's business."""
        return not self.applies_when or not set(self.applies_when).isdisjoint(tags)


class Exemplar(Record):
    """A worked example that shows a critic and reviser what a critique and a revision are."""

    prompt: str | Dialogue
    response: str
    critique: str
    revision: str
    principle_id: str | None = None
    """The principle it critiques under; None: a general request."""


class Constitution(Record):
    """A named set of principles."""

    name: str = "constitution"
    version: str = "1"
    preamble: str | None = None
    principles: tuple[Principle, ...] = Field(min_length=1)
    exemplars: tuple[Exemplar, ...] = ()

    @property
    def hash(self) -> str:
        """Identifies the constitution by content; names the rules that data was made under."""
        return content_hash(self.model_dump(mode="json"))

    def principle(self, principle_id: str) -> Principle:
        """The principle with this id.

        Raises:
            KeyError: There is none.
        """
        for principle in self.principles:
            if principle.id == principle_id:
                return principle
        raise KeyError(principle_id)

    def applicable(self, tags: Collection[str]) -> tuple[Principle, ...]:
        """The principles that apply to a prompt with these tags, in order."""
        return tuple(item for item in self.principles if item.applies_to(tags))


def load_constitution(path: Path) -> Constitution:
    """The constitution in a YAML file, from a bare list of sentences to the full form.

    Raises:
        ConstitutionError: Lists every mistake with file, line, column and remedy.
    """
    document = _full_form(read_yaml(path, error=ConstitutionError))
    constitution = validate(document, Constitution, error=ConstitutionError)
    problems = [
        document.problem(location, message) for location, message in _mistakes(constitution)
    ]
    if problems:
        raise ConstitutionError(listed(problems))
    return constitution


def _full_form(document: Document) -> Document:
    """Fills in what the short forms leave out: names, ids, and a mapping around each rule."""
    data, positions = document.data, document.positions
    if isinstance(data, list) or data is None:
        data = {"principles": cast("list[Any]", data or [])}
        positions = {("principles", *location): place for location, place in positions.items()}
    if not isinstance(data, dict):
        return document
    form = {"name": document.path.stem, **cast("dict[str, Any]", data)}
    principles = form.get("principles")
    if isinstance(principles, list):
        form["principles"] = [_full_principle(item) for item in cast("list[Any]", principles)]
    if isinstance(form.get("version"), int | float):
        form["version"] = str(form["version"])
    return replace(document, data=form, positions=positions)


def _full_principle(item: Any) -> Any:
    if isinstance(item, str):
        return {"id": _id_of(item), "rule": item}
    if isinstance(item, dict) and "id" not in item and isinstance(item.get("rule"), str):  # pyright: ignore[reportUnknownMemberType]
        return {"id": _id_of(cast("str", item["rule"])), **cast("dict[str, Any]", item)}
    return cast("Any", item)


def _id_of(rule: str) -> str:
    """An id made of the rule's own words, so that reordering the rules renames none of them."""
    return "-".join(re.findall(r"[a-z0-9]+", rule.lower())[:_ID_WORDS]) or "rule"


def _mistakes(constitution: Constitution) -> Iterator[tuple[Location, str]]:
    """What a schema cannot see: ids used twice, broken patterns, dangling references."""
    seen: set[str] = set()
    for i, principle in enumerate(constitution.principles):
        at: Location = ("principles", i)
        if principle.id in seen:
            yield (*at, "id"), f"the id `{principle.id}` is used twice; give each rule its own"
        seen.add(principle.id)
        for j, pattern in enumerate(principle.patterns):
            try:
                re.compile(pattern)
            except re.error as cause:
                yield (
                    (*at, "patterns", j),
                    f"`{pattern}` is not a regular expression: {cause}. "
                    "In YAML, single quotes keep backslashes as they are",
                )
    for i, exemplar in enumerate(constitution.exemplars):
        if exemplar.principle_id is not None and exemplar.principle_id not in seen:
            yield (
                ("exemplars", i, "principle_id"),
                f"there is no principle `{exemplar.principle_id}`",
            )
