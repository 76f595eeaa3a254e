"""The section of the evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, field_validator

from charter.config.section import Fraction, Kind, Section

Column = Literal["base", "base+rules", "base+revise", "sft", "rl", "dpo"]
UNTRAINED: tuple[Column, ...] = ("base", "base+rules", "base+revise")


class EvaluateConfig(Section):
    """Columns of answers to held-out prompts, graded side by side."""

    constitution: Path | None = None
    """What is graded; default: the constitution that was trained on."""
    columns: tuple[Column, ...] | None = Field(default=None, min_length=1)
    """What is measured; None: `base`, `base+rules`, `base+revise` and all that `learn` trains."""
    samples: int = Field(default=4, ge=1)
    """Answers per prompt and column."""
    judged_samples: int = Field(default=1, ge=0)
    """How many of them the judge grades too."""
    temperature: float = Field(default=1.0, ge=0.0)
    """Of the answers."""
    max_new_tokens: int = Field(default=256, gt=0)
    """Of an answer."""
    system: str | None = None
    """A system turn put before every held-out prompt that has none."""
    groups: tuple[str, ...] = ()
    """Tags of harmful prompts: those with such a tag, and those without it, get figures of their
    own."""
    max_failed: Fraction = 0.05
    """The stage fails when a larger share of its answers failed."""
    head_to_head: Fraction = 1.0
    """Share of the held-out prompts, in a keyed draw, on which the judge compares the trained
    models' answers in pairs, in both orders; 0: none."""

    @field_validator("groups")
    @classmethod
    def _groups_have_names_of_their_own(cls, groups: tuple[str, ...]) -> tuple[str, ...]:
        taken = {*get_args(Kind), "all"} & {*groups}
        if taken or len({*groups}) < len(groups):
            raise ValueError(
                f"groups are {', '.join(groups)}: name tags of prompts, each once, and none that "
                f"is called {', '.join(get_args(Kind))} or all"
            )
        return groups
