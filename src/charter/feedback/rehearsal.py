"""Demonstrations that RL rehearses, so that a reward does not cost what the model was good at.

A reward model knows little of requests that both responses meet, and what RL makes of answers to
them is chance. The supervised loss of such demonstrations, added to each step, holds them in place.

Source: Ouyang et al. 2022 (InstructGPT, arXiv 2203.02155), sec. 3.5, "PPO-ptx", with demonstrations
in place of pretraining texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from transformers import PreTrainedModel

from charter.encoding import Encoder
from charter.errors import GuardError
from charter.learning.batches import plan_step
from charter.learning.learner import Learner, gradients
from charter.learning.task import Task
from charter.learning.tokens import token_task
from charter.records import Demonstration, with_system_turn
from charter.seeding import shuffled


@dataclass(frozen=True)
class Rehearsal:
    """Demonstrations beside the rollouts, and how much they count."""

    task: Task
    weight: float
    """Of their mean loss per token, in the loss of a step."""
    count: int
    """Demonstrations at an optimizer step."""

    def add_gradients(
        self, learner: Learner, *, seed: int, at: int, tokens_per_batch: int
    ) -> float:
        """Adds to the gradients of optimizer step `at`; gives the mean loss per token, in nats."""
        chosen = shuffled(self.task.lengths, seed, "rehearsal", at)[: self.count]
        batches = plan_step(
            {name: self.task.lengths[name] for name in chosen},
            tokens_per_batch=tokens_per_batch,
            seed=seed,
            epoch=at,
        )

        def weighted(model: nn.Module, names: Sequence[str]) -> Tensor:
            return self.weight * self.task.loss(model, names)

        return gradients(learner, replace(self.task, loss=weighted), batches) / self.weight


def rehearsal(
    demonstrations: Iterable[Demonstration],
    *,
    model: PreTrainedModel,
    encoder: Encoder,
    system: str | None,
    longest: int,
    weight: float,
    count: int,
) -> Rehearsal:
    """The demonstrations on benign and borderline prompts that are not too long.

    Raises:
        GuardError: There is none.
    """
    kept = [item for item in demonstrations if item.provenance.kind != "harmful"]
    examples = {
        item.id: encoder.example(with_system_turn(item.prompt, system), item.completion[0].content)
        for item in kept
    }
    examples = {name: one for name, one in examples.items() if len(one.ids) <= longest}
    if not examples:
        raise GuardError(
            "there is no demonstration on a benign or borderline prompt to rehearse: add such "
            "prompts to `prompts.train`, or leave `reinforce.sft_weight` at 0"
        )
    return Rehearsal(token_task(model, examples, stage="reinforce"), weight, count)
