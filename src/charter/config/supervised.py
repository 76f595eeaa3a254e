"""The sections of the supervised half: revise and finetune."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from charter.config.section import Fraction, Section
from charter.config.training import TrainingConfig


class GatesConfig(Section):
    """What may become a demonstration. Each gate can be turned off."""

    empty: bool = True
    """Stops an empty revision."""
    truncated: bool = True
    """Stops a revision that was cut off by `max_new_tokens`."""
    max_words: int | None = Field(default=400, gt=0)
    """Words of the longest text that is let through."""
    leaked_wording: bool = True
    """Stops "Here is a revised response", "I apologise for my previous ..." and the like."""
    control_tokens: bool = True
    """Stops a text that spells a control token of the model to be trained."""
    unchanged: bool = True
    """Stops a revision that equals the response it was to mend."""
    refuses_benign: bool = True
    """Stops a refusal of a prompt that you call benign. Turn it off where a rule forbids what is
    harmless otherwise."""
    max_repetition: Fraction | None = 0.5
    """Largest share of repeated 3-grams of words."""
    near_duplicate: Fraction | None = None
    """Stops a demonstration whose prompt and completion are this similar (Jaccard, 3-grams of
    words) to an earlier one's."""


class ReviseConfig(Section):
    """Prompt -> response -> rounds of critique and revision."""

    rounds: int = Field(default=2, ge=1)
    """Of critique and revision."""
    selection: Literal["screen", "random", "all"] = "screen"
    """`screen`: draw a principle by the odds that it is broken, keep the response where none passes
    the threshold; `random`: draw by weight, as in the paper; `all`: take them in turn, from one
    drawn for each prompt."""
    threshold: Fraction | Literal["fit"] = "fit"
    """P(broken) from which a principle counts as broken; `fit`: on the principles' tests."""
    critique: bool = True
    """False: revise directly, without a critique."""
    system: str | None = None
    """A system turn put before every prompt that has none."""
    response_temperature: float = Field(default=1.0, ge=0.0)
    critique_temperature: float = Field(default=0.7, ge=0.0)
    revision_temperature: float = Field(default=0.7, ge=0.0)
    max_new_tokens: int = Field(default=256, gt=0)
    """Of each text; a revision that is cut off is stopped by the gate `truncated`."""
    train_on: Literal["last", "all"] = "last"
    """Which rounds' revisions become demonstrations."""
    gates: GatesConfig = GatesConfig()
    max_failed: Fraction = 0.05
    """The stage fails when a larger share of its records failed."""


class FinetuneConfig(TrainingConfig):
    """Demonstrations -> SFT model."""

    benign_share: Fraction | None = None
    """Share of benign demonstrations, drawn afterwards; None keeps what there is."""
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Of the prompts; never trained on."""
    near_duplicate: Fraction = 0.8
    """Prompts this similar (Jaccard, 3-grams of words) stay on one side of the split; training
    prompts this similar to a held-out one are dropped."""
    system: str | None = None
    """A system turn put before every training prompt that has none."""
