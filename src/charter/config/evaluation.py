"""The section of the evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from charter.config.section import Fraction, Section

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
    max_new_tokens: int = Field(default=256, gt=0)
    system: str | None = None
    max_failed: Fraction = 0.05
    head_to_head: Fraction = 1.0
    """Share of the held-out prompts, in a keyed draw, on which the judge compares the trained
    models' answers in pairs, in both orders; 0: none."""
