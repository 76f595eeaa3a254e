"""What fine-tuning reads and what it learns to write, as text: the mask, for a person to check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

from charter.console import Silent
from charter.models.loading import Loaded, load
from charter.pipeline.finetuning import split_demonstrations
from charter.pipeline.roles import trained_source
from charter.pipeline.workspace import Request, open_workspace
from charter.records import with_system_turn


class Shown(NamedTuple):
    """One training example."""

    title: str
    prompt: str
    """Read only, control tokens as the tokenizer spells them."""
    supervised: str
    """Trained on, the terminator included."""


def inspect_examples(request: Request, *, limit: int) -> Iterator[Shown]:
    """The first training examples, exactly as fine-tuning encodes them.

    Raises:
        RunError: There are no demonstrations yet.
    """
    with open_workspace(request, progress=Silent()) as workspace:
        config = workspace.config
        loaded = load(trained_source(config.models))
        for item in split_demonstrations(workspace).train[:limit]:
            dialogue = with_system_turn(item.prompt, config.finetune.system)
            example = loaded.encoder.example(dialogue, item.completion[0].content)
            trained = len(example.ids) - example.prompt_length
            yield Shown(
                title=f"{item.id}: {example.prompt_length} tokens read, {trained} trained on",
                prompt=_spelled(loaded, example.ids[: example.prompt_length]),
                supervised=_spelled(loaded, example.ids[example.prompt_length :]),
            )


def _spelled(loaded: Loaded, ids: Sequence[int]) -> str:
    """The ids as text, control tokens included."""
    return cast("Any", loaded.tokenizer).decode(list(ids), skip_special_tokens=False)
