"""An RL training under way: who learns, what for, and what was seen so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor
from transformers import PreTrainedModel

from charter.config import ReinforceConfig
from charter.encoding import Encoder
from charter.feedback.rehearsal import Rehearsal
from charter.feedback.rewards import Reward, Versus
from charter.feedback.rollouts import Rollouts
from charter.learning.learner import Learner
from charter.learning.metrics import LookRow, Row, StepRow
from charter.learning.tree import Group, Layout
from charter.models.local import LocalModel
from charter.records import Prompt

Reference = Callable[[Sequence[Group], Layout], list[Tensor]]
"""Log-probabilities of all response tokens, by group, under the frozen SFT model."""


@dataclass(frozen=True)
class Agent:
    """The policy in training: one module that learns and, between updates, speaks."""

    model: PreTrainedModel
    """What changes; with adapters, as peft wraps it."""
    sampler: LocalModel
    """The slot engine on that very module, or on a copy in half precision that follows it."""
    encoder: Encoder
    reference: Reference


@dataclass(frozen=True)
class Aims:
    """What RL is to reach, and who watches it."""

    reward: Reward
    """What is maximised, penalties included."""
    constraint: Reward | None
    """What must stay above a level."""
    versus: Versus
    """The judge, for looks: no part of the training unless it is the reward."""
    rehearsal: Rehearsal | None = None
    """Demonstrations that must not be forgotten for the reward."""


@dataclass
class Training:
    """A training under way."""

    agent: Agent
    aims: Aims
    section: ReinforceConfig
    prompts: Sequence[Prompt]
    watched: Sequence[Prompt]
    lr: float
    seed: int
    identity: str
    learner: Learner
    layout: Layout = "rows"
    """How groups are laid out for the update."""
    references: list[Rollouts] = field(default_factory=list["Rollouts"])
    """The reference's responses to the watched prompts."""
    rows: list[Row] = field(default_factory=list["Row"])

    @property
    def steps(self) -> list[StepRow]:
        """The steps taken."""
        return [row for row in self.rows if isinstance(row, StepRow)]

    @property
    def looks(self) -> list[LookRow]:
        """The looks taken, the first at the reference itself."""
        return [row for row in self.rows if isinstance(row, LookRow)]

    @property
    def kl_weight(self) -> float:
        """For the next step."""
        return self.steps[-1].kl_weight if self.steps else self.section.kl_weight

    @property
    def multiplier(self) -> float:
        """Of the constraint, for the next step."""
        return self.steps[-1].multiplier if self.steps else 0.0
