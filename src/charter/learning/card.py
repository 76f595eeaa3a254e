"""The model card: what a trained model is, what it was made of, and what it is not for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from charter.constitution import Constitution


@dataclass(frozen=True)
class CardFacts:
    """What a card says besides the words that all cards share."""

    title: str
    base_model: str
    method: str
    """One sentence."""
    constitution: Constitution
    data: Mapping[str, str]
    """Name -> value; so are all of these."""
    training: Mapping[str, str]
    results: Mapping[str, str]
    limits: Sequence[str] = ()
    """Sentences, beside the one that all models share."""
    task: Literal["text-generation", "text-classification"] = "text-generation"
    """In the hub's words."""


SPEAKS = (
    "The model was trained to follow the rules below. Training shifts what it is likely to say; "
    "it guarantees nothing. Grade it on held-out prompts before it meets users."
)
"""The limit of every model that answers users."""
_INHERITS = "It inherits what its base model knows, does not know and is licensed for."


def model_card(facts: CardFacts) -> str:
    """The card as Markdown with the hub's YAML front matter."""
    rules = facts.constitution
    front = {"base_model": facts.base_model, "library_name": "transformers"}
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in front.items()),
        f"pipeline_tag: {facts.task}",
        "tags: [charter, constitutional-ai]",
        "---",
        "",
        f"# {facts.title}",
        "",
        facts.method,
        "",
        *_table("Data", facts.data),
        *_table("Training", facts.training),
        *_table("Result", facts.results),
        "## Limits",
        "",
        *(f"- {limit}" for limit in (*facts.limits, _INHERITS)),
        "",
        "## Constitution",
        "",
        f"{_inline(rules.name)}, version {_inline(rules.version)}, hash `{rules.hash}`:",
        "",
        *(f"- **{rule.id}**: {_inline(rule.rule)}" for rule in rules.principles),
    ]
    return "\n".join(lines) + "\n"


def _table(heading: str, values: Mapping[str, str]) -> list[str]:
    cells = [f"| {_inline(name)} | {_inline(value)} |" for name, value in values.items()]
    return [f"## {heading}", "", "| | |", "|---|---|", *cells, ""]


def _inline(text: str) -> str:
    """The text as plain words in one line: no markup of its own."""
    escaped = "".join(f"\\{char}" if char in r"\`*_[]<>|#" else char for char in text)
    return " ".join(escaped.split())
