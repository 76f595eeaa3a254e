"""The rules a model is to obey: principles, how they are asked about, and how they are tested."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard, cast

from pydantic import Field, field_validator

from charter.documents import Document, Location, read_yaml, validate
from charter.errors import ConstitutionError, listed
from charter.records import Dialogue, Record, answerable, content_hash

_ID_WORDS = 6
_ID_DIGITS = 6


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

    prompt: str | Dialogue = Field(min_length=1)
    response: str = Field(min_length=1)
    critique: str = Field(min_length=1)
    revision: str = Field(min_length=1)
    principle_id: str | None = None
    """The principle it critiques under; None: a general request."""

    @field_validator("prompt")
    @classmethod
    def _can_be_answered(cls, prompt: str | Dialogue) -> str | Dialogue:
        if isinstance(prompt, str):
            return prompt
        if prompt[0].role == "system":
            raise ValueError("an exemplar has no system turn: its turns follow that of a prompt")
        return answerable(prompt)


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
        form["principles"] = _with_ids(cast("list[Any]", principles))
    if isinstance(form.get("version"), int | float):
        form["version"] = str(form["version"])
    return replace(document, data=form, positions=positions)


def _with_ids(principles: list[Any]) -> list[Any]:
    """The principles as mappings, each with an id of its own.

    An id is made of the rule's own words, so that reordering the rules renames none of them. Words
    that another principle has too, or no Latin ones, are told apart by a hash of the rule.
    """
    forms: list[Any] = [{"rule": item} if isinstance(item, str) else item for item in principles]
    words = [_words_of(form["rule"]) if _needs_id(form) else _given_id(form) for form in forms]
    taken = Counter(words)
    return [
        {"id": own if own and taken[own] == 1 else _hashed_id(own, form["rule"]), **form}
        if _needs_id(form)
        else form
        for form, own in zip(forms, words, strict=True)
    ]


def _needs_id(form: Any) -> TypeGuard[dict[str, Any]]:
    """Whether an item is a principle that has a rule, and no id yet."""
    return isinstance(form, dict) and "id" not in form and isinstance(form.get("rule"), str)  # pyright: ignore[reportUnknownMemberType]


def _given_id(form: Any) -> str:
    return str(cast("dict[str, Any]", form).get("id", "")) if isinstance(form, dict) else ""


def _words_of(rule: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", rule.lower())[:_ID_WORDS])


def _hashed_id(words: str, rule: str) -> str:
    return f"{words or 'rule'}-{content_hash(rule)[:_ID_DIGITS]}"


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
