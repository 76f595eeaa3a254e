"""A whole run: all sections, and what must hold between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, model_validator

from charter.config.evaluation import UNTRAINED, Column, EvaluateConfig
from charter.config.feedback import CompareConfig, DpoConfig, ReinforceConfig, RewardConfig
from charter.config.section import Section
from charter.config.sources import ModelsConfig, PromptsConfig
from charter.config.supervised import FinetuneConfig, ReviseConfig

Learning = Literal["sft", "rl", "dpo"]


class Config(Section):
    """A whole run."""

    seed: int = 0
    """Of every draw: the same one gives the same run."""
    constitution: Path
    """The rules: a YAML file, from a bare list of sentences to the full form."""
    prompts: PromptsConfig
    models: ModelsConfig = ModelsConfig()
    learn: tuple[Learning, ...] = Field(default=("sft",), min_length=1)
    """What is trained: `sft` first, then `rl`, `dpo`, or both from the same SFT model."""
    revise: ReviseConfig = ReviseConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    compare: CompareConfig = CompareConfig()
    reward: RewardConfig = RewardConfig()
    reinforce: ReinforceConfig = ReinforceConfig()
    dpo: DpoConfig = DpoConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the evaluation: as asked for, or all there are."""
        return self.evaluate.columns or (*UNTRAINED, *self.learn)

    @property
    def compares(self) -> bool:
        """Whether anything is learnt from preferences: by dpo, or by a reward model for rl."""
        return "dpo" in self.learn or ("rl" in self.learn and "model" in self.reinforce.rewards)

    @model_validator(mode="before")
    @classmethod
    def _empty_sections_are_defaults(cls, data: Any) -> Any:
        """A section whose keys are all commented out reads as null in YAML."""
        if not isinstance(data, dict):
            return data
        nothing: dict[str, Any] = {}
        given = cast("dict[str, Any]", data)
        return {key: nothing if value is None else value for key, value in given.items()}

    @model_validator(mode="after")
    def _system_turns_have_an_effect(self) -> Config:
        """A stage's own system turn is for prompts without one: `prompts.system` leaves none."""
        stages = {"revise": self.revise, "finetune": self.finetune, "evaluate": self.evaluate}
        idle = [f"`{name}.system`" for name, stage in stages.items() if stage.system is not None]
        if self.prompts.system is not None and idle:
            raise ValueError(
                f"{', '.join(idle)} would have no effect beside `prompts.system`, which all stages "
                "use; leave out the one or the other"
            )
        return self

    @model_validator(mode="after")
    def _learning_begins_with_sft(self) -> Config:
        """RL and DPO start from the SFT model, and are kept near it."""
        if self.learn[0] != "sft" or len(set(self.learn)) < len(self.learn):
            raise ValueError(
                f"`learn` is {', '.join(self.learn)}: write sft first, then rl, dpo or both, each "
                "once"
            )
        return self

    @model_validator(mode="after")
    def _columns_are_trained(self) -> Config:
        missing = {"sft", "rl", "dpo"} & {*(self.evaluate.columns or ())} - {*self.learn}
        if missing:
            raise ValueError(
                f"`evaluate.columns` names {', '.join(sorted(missing))}, which `learn` does not "
                "train; add it there, or leave the column out"
            )
        return self
