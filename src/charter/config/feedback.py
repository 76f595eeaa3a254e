"""The sections of the feedback half: compare, reward, reinforce and dpo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

from pydantic import Field, field_validator, model_validator

from charter.config.section import Fraction, Kind, Section
from charter.config.sources import Source
from charter.config.training import LoraConfig, TrainingConfig

_ROUNDING = 1e-9


class HumanPreferences(Section):
    """Preferences of people, in hh-rlhf's form: JSONL with `chosen` and `rejected` transcripts."""

    path: Path
    share: Fraction = 0.3
    """Of all preferences: the largest share that they may make up."""
    p_chosen: Annotated[float, Field(ge=0.5, le=1.0)] = 1.0
    """How sure their labels are."""


class CompareConfig(Section):
    """Two responses per prompt -> the judge's soft preference."""

    prompts: int | None = Field(default=None, gt=0)
    """At most so many, drawn by id; None takes all."""
    responses: int = Field(default=2, ge=2)
    """Per prompt; all pairs of them are compared, identical ones counted and not judged."""
    temperature: float = Field(default=1.0, gt=0.0)
    max_new_tokens: int = Field(default=256, gt=0)
    """Of a response, and of a chain of thought."""
    negatives: Fraction = 0.0
    """Share of the benign and borderline prompts whose first response is also compared with one to
    a harmful prompt. Where the SFT model refuses nothing harmless, no other pair shows that a
    refusal there is worse, and a reward model may learn that refusals are good everywhere."""
    mix: Mapping[Kind, Fraction] | None = None
    """Largest share of prompts of each kind, drawn by id; None takes the prompts as they are."""
    principles: int = Field(default=2, ge=1)
    """Drawn for each label by weight and relevance, and averaged over."""
    chain_of_thought: bool = False
    """Let the judge reason before it chooses; its probabilities are then clamped."""
    clamp: tuple[Fraction, Fraction] = (0.4, 0.6)
    """Of probabilities after a chain of thought, which saturate."""
    votes: int = Field(default=0, ge=0)
    """Sample so many verdicts instead of reading probabilities; 0: read them."""
    tie_margin: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    """Where harmlessness lies this near to 0.5, the judge is asked which reply helps more too: of
    two harmless replies the evasive one is worse."""
    revised_share: Fraction = 0.2
    """Of all preferences: the largest share of revised over initial responses, a by-product of
    `revise`."""
    revised_p: Annotated[float, Field(ge=0.5, le=1.0)] = 0.9
    """How sure those are."""
    misplaced_share: Fraction = 0.0
    """Of all preferences: the largest share of revisions over another prompt's, a by-product too.
    Responses to one prompt are much alike, and a reward model may learn that some words are good
    whatever was asked; of these pairs only the prompt says which is better. Prompts that share half
    of their tags count as the same."""
    misplaced_p: Annotated[float, Field(ge=0.5, le=1.0)] = 0.95
    """How sure those are."""
    human: HumanPreferences | None = None
    """Preferences of people, to mix in."""
    max_position_bias: Fraction = 0.3
    """A larger share of labels that follow the position rather than the reply is warned of."""
    max_failed: Fraction = 0.05
    """The stage fails when a larger share of its records failed."""

    @model_validator(mode="after")
    def _clamp_is_an_interval(self) -> CompareConfig:
        low, high = self.clamp
        if not low < 0.5 < high:
            raise ValueError("`clamp` is two probabilities around 0.5, the lower one first")
        return self

    @model_validator(mode="after")
    def _mix_can_be_met(self) -> CompareConfig:
        mix = self.mix or {}
        if len(mix) == len(get_args(Kind)) and sum(mix.values()) < 1.0 - _ROUNDING:
            raise ValueError(
                f"the shares in `mix` are largest ones and add up to {sum(mix.values()):g}, so no "
                "prompts can meet them: raise them to 1 in all, or leave out the kind that may "
                "make up the rest"
            )
        return self


class RewardConfig(TrainingConfig):
    """Preferences -> reward model."""

    base: Source | None = None
    """What carries the scalar head; default: the SFT model."""
    epochs: float = Field(default=2.0, gt=0.0)
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Of the prompts; their pairs are ordered, not learnt from."""
    near_duplicate: Fraction = 0.8
    """Prompts this similar stay on one side of the split, and away from the held-out ones."""
    margin: float = Field(default=0.0, ge=0.0)
    """Reward gap, in nats, that a certain preference asks for beyond being right."""
    centre: float = Field(default=0.01, ge=0.0)
    """Weight of the squared sum of a pair's rewards, which keeps them around zero."""
    min_accuracy: Fraction = 0.65
    """The gate: RL is refused where the reward model orders fewer of the held-out pairs that the
    judge compared as the judge does."""


class ConstraintConfig(Section):
    """A second reward that must stay above a level, by a Lagrange multiplier."""

    reward: str = Field(min_length=1)
    """`model`, a reward model's directory, or `python:MODULE:FUNCTION`, as for the first reward;
    not `judge`, which orders the responses of a group and has no level."""
    level: float
    """The mean that rollouts must reach."""
    lr: float = Field(default=0.05, gt=0.0)
    """How fast the multiplier moves."""
    max_multiplier: float = Field(default=10.0, gt=0.0)
    """The most that the constraint may weigh against the reward."""

    @field_validator("reward")
    @classmethod
    def _has_a_level(cls, reward: str) -> str:
        if reward == "judge":
            raise ValueError(
                "the judge compares the responses of a group with each other, so their mean is "
                "always 0.5 and no level can be held. Name `model`, a reward model's directory, or "
                "`python:MODULE:FUNCTION`"
            )
        return reward


class ReinforceConfig(Section):
    """Reward model + SFT model -> RL model, near the SFT model."""

    algorithm: Literal["grpo", "rloo"] = "grpo"
    """How a response is measured against its group."""
    reward: str = Field(default="model", min_length=1)
    """`model` (the trained reward model), `judge` (no reward model), a reward model's directory,
    or `python:MODULE:FUNCTION`, called with the prompts and responses of a step."""
    steps: int = Field(default=200, gt=0)
    """At most; monitors may end training before."""
    prompts_per_step: int = Field(default=16, gt=0)
    """Answered by the policy as it is at that step."""
    group: int = Field(default=8, ge=2)
    """Responses sampled per prompt; each is measured against the others."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Of the responses, and of the policy that learns from them. Above 1 they show more of what it
    rarely does; what it unlearns there it does still less at 1."""
    passes: int = Field(default=1, ge=1)
    """Times that a step's rollouts are learnt from."""
    updates: int = Field(default=1, ge=1)
    """Optimizer steps in each pass."""
    tokens_per_batch: int = Field(default=4096, gt=0)
    lr: Annotated[float, Field(gt=0.0)] | Literal["auto"] = "auto"
    """`auto`: a tenth of fine-tuning's."""
    warmup_share: Fraction = 0.05
    weight_decay: float = Field(default=0.0, ge=0.0)
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    lora: LoraConfig | None = None
    """As in a training, for RL alone: each stage has its own."""
    gradient_checkpointing: bool = False
    clip: float = Field(default=0.2, gt=0.0)
    """How far a token's probability ratio may move in one step of rollouts."""
    kl_weight: float = Field(default=0.05, ge=0.0)
    """Of KL(policy || reference) per token, in the loss (k3 estimate)."""
    kl_budget: float | None = Field(default=None, gt=0.0)
    """Adapt the weight so that KL per response, in nats, stays near this."""
    sft_weight: float = Field(default=0.0, ge=0.0)
    """Of the loss of SFT demonstrations on benign and borderline prompts, `prompts_per_step` of
    them at each update: what they show is then not lost for the reward (PPO-ptx)."""
    max_new_tokens: int = Field(default=256, gt=0)
    """Of a response; see `no_eos_penalty`."""
    length_penalty: float = Field(default=0.0, ge=0.0)
    """Taken from the reward per token of a response."""
    no_eos_penalty: float = Field(default=1.0, ge=0.0)
    """Taken from the reward of a response that was cut off."""
    constraint: ConstraintConfig | None = None
    """A second reward with a level to hold."""
    monitor_every: int = Field(default=10, gt=0)
    """Steps between looks at held-out rollouts."""
    monitor_prompts: int = Field(default=48, gt=0)
    """RL prompts held out for them."""
    patience: int = Field(default=2, ge=1)
    """Looks in a row at which the judge's score fell while the reward rose before training stops
    and the best checkpoint is restored."""
    max_boilerplate: Fraction = 0.5
    """Training stops where one sentence that the reference rarely says ends so many responses."""
    max_length_ratio: float = Field(default=3.0, gt=1.0)
    """Training stops where responses are so many times as long as the reference's."""
    checkpoint_every_s: float = Field(default=120.0, ge=0.0)
    """At least so many seconds lie between two checkpoints."""

    @model_validator(mode="before")
    @classmethod
    def _its_model_is_whole(cls, given: object) -> object:
        if isinstance(given, Mapping) and "shard" in given:
            raise ValueError(
                "RL cannot spread its model (FSDP): the weights that learn also speak, whole, "
                "between its steps. Take `shard` out; `lora` and `gradient_checkpointing` save "
                "memory"
            )
        return cast("object", given)

    @model_validator(mode="after")
    def _a_budget_moves_a_weight(self) -> ReinforceConfig:
        if self.kl_budget is not None and self.kl_weight == 0.0:
            raise ValueError(
                "`kl_budget` multiplies `kl_weight`, and 0 stays 0: start from a positive weight"
            )
        return self

    @property
    def rewards(self) -> tuple[str, ...]:
        """All that responses are rewarded by: the reward, and the constraint's if there is one."""
        return (self.reward, *([self.constraint.reward] if self.constraint else []))


class DpoConfig(TrainingConfig):
    """Preferences -> policy, without a reward model."""

    beta: float = Field(default=0.1, gt=0.0)
    """How strongly the policy is held to the reference."""
    epochs: float = Field(default=1.0, gt=0.0)
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Of the prompts; never trained on."""
    near_duplicate: Fraction = 0.8
    """As in `reward`."""
