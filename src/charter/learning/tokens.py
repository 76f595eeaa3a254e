"""The task of fine-tuning: the response tokens of examples, each predicted from all before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from charter.encoding import Example
from charter.errors import GuardError
from charter.learning.batches import collate, device_of
from charter.learning.logits import fastest_logits
from charter.learning.objectives import token_loss
from charter.learning.task import Task
from charter.records import content_hash

_PROBED = 2
"""Examples on which two ways to the logits are compared: enough to meet padding."""


def token_task(model: PreTrainedModel, examples: Mapping[str, Example], *, stage: str) -> Task:
    """The task of predicting the responses of examples, the terminator included.

    Args:
        model: What will learn; the cheaper way to its logits is tried out here.
        examples: What to learn from, by name.
        stage: The section of the configuration, for messages.

    Raises:
        GuardError: There is no example, or one whose tokens all belong to the prompt.
    """
    require_supervision(examples, stage=stage)
    shortest = sorted(examples.values(), key=lambda example: len(example.ids))[:_PROBED]
    logits = fastest_logits(model, probe=collate(shortest).to(device_of(model)))

    def loss(model: nn.Module, names: Sequence[str]) -> Tensor:
        batch = collate([examples[name] for name in names]).to(device_of(model))
        return token_loss(logits(model, batch), batch.targets_S)

    return Task(
        stage=stage,
        lengths={name: len(example.ids) for name, example in examples.items()},
        units={name: supervised_tokens(example) for name, example in examples.items()},
        digest=content_hash(
            {name: [example.ids, example.prompt_length] for name, example in examples.items()}
        ),
        loss=loss,
    )


def supervised_tokens(example: Example) -> int:
    """How many tokens the loss of an example is summed over."""
    return len(example.ids) - max(1, example.prompt_length)


def require_supervision(examples: Mapping[str, Example], *, stage: str) -> None:
    """Stops what could teach nothing.

    Raises:
        GuardError: There is no example, or one whose tokens all belong to the prompt.
    """
    if not examples:
        raise GuardError(
            "there is no example to train on; look at the gates' reasons and at "
            f"`{stage}.max_length` for where they went"
        )
    for name, example in examples.items():
        if supervised_tokens(example) <= 0:
            raise GuardError(
                f"example {name} has no response token to learn ({len(example.ids)} tokens, "
                f"{example.prompt_length} of them the prompt's): its loss would be fully masked. "
                "Remove it, or mend the chat template that encoded it"
            )
