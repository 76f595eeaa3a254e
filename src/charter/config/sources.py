"""Where prompts and models come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import BeforeValidator, Field, field_validator

from charter.config.section import Section

STARTER = "starter"
"""The source that names the embedded starter model."""


class PromptSource(Section):
    """A file of prompts, and what holds for every prompt in it that does not say otherwise."""

    path: Path
    """JSONL of prompts, or of hh-rlhf transcripts."""
    kind: Literal["harmful", "benign", "borderline"] = "harmful"
    """Of prompts that do not say theirs."""
    tags: tuple[str, ...] = ()
    """Of prompts that have none."""
    limit: int | None = Field(default=None, gt=0)
    """Read at most so many prompts, from the top."""


def _as_source(value: object) -> object:
    return {"path": value} if isinstance(value, str | Path) else value


def _as_sources(value: object) -> object:
    return cast("object", value) if isinstance(value, list | tuple) else (value,)


PromptSources = Annotated[
    tuple[Annotated[PromptSource, BeforeValidator(_as_source)], ...],
    BeforeValidator(_as_sources),
    Field(min_length=1),
]


class PromptsConfig(Section):
    """Where prompts come from: one file or several, each a path or a mapping."""

    train: PromptSources
    """Asked, answered, criticised, revised, and trained on."""
    heldout: PromptSources
    """For evaluation only; nothing near-identical is trained on."""
    rl: PromptSources | None = None
    """For the feedback half: compared, judged, and rolled out in RL; default: `train`."""
    system: str | None = None
    """A system turn put before every prompt that has none, in every stage and column: the one that
    the model is deployed with."""

    @field_validator("system")
    @classmethod
    def _says_something(cls, text: str | None) -> str | None:
        if text is not None and not text.strip():
            raise ValueError("the text is empty; write the system turn, or leave the key out")
        return text


class ModelSource(Section):
    """A model to load."""

    source: str = Field(min_length=1)
    """`starter`, a directory, a hub id, or `scripted:FILE`."""
    revision: str | None = None
    """The hub's branch, tag or commit."""
    template: Literal["chatml"] | None = None
    """Chat template to use where the tokenizer has none."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: float32 on CPU, bfloat16 on GPU."""
    capacity: int = Field(default=64, gt=0)
    """Calls answered at once."""

    @field_validator("source")
    @classmethod
    def _is_no_address(cls, source: str) -> str:
        if "://" in source:
            raise ValueError(
                f"{source} is an address, and endpoints are not supported yet: models run in this "
                "process. Name a directory or a hub id (org/name). Another service's verdicts "
                "come in by `reinforce.reward: python:MODULE:FUNCTION` or `compare.human.path`"
            )
        return source


def _as_model(value: object) -> object:
    return {"source": value} if isinstance(value, str) else value


Source = Annotated[ModelSource, BeforeValidator(_as_model)]


class ModelsConfig(Section):
    """Which model plays which role. Roles that name the same source share one loaded model."""

    policy: Source = ModelSource(source=STARTER)
    """The model to align: it answers."""
    critic: Source | None = None
    """Default: the policy's initial weights; so for the reviser and the judge."""
    reviser: Source | None = None
    """Who revises."""
    judge: Source | None = None
    """Who compares answers, and grades them beside the patterns."""
    train_from: Source | None = None
    """What fine-tuning starts from; default: the policy."""
