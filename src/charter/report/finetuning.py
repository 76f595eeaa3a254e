"""Fine-tuning on the demonstrations."""

from __future__ import annotations

from charter.report.blocks import Section
from charter.report.lessons import training_panel
from charter.report.reading import Found


def finetuning_section(found: Found) -> Section | None:
    """The course of fine-tuning; None before its first step."""
    if found.finetuning is None:
        return None
    return Section(
        anchor="finetuning",
        title="Fine-tuning",
        lead="Loss on response tokens. Where the validation loss turns up, the model begins to "
        "memorise: the weights of that step were kept.",
        blocks=(training_panel(found.finetuning, examples="demonstrations", unit="token"),),
    )
