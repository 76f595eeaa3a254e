"""The configuration: one section per stage, every default stated here."""

from charter.config.evaluation import Column, EvaluateConfig
from charter.config.feedback import (
    CompareConfig,
    ConstraintConfig,
    DpoConfig,
    HumanPreferences,
    ReinforceConfig,
    RewardConfig,
)
from charter.config.loading import load_config
from charter.config.sources import STARTER, ModelsConfig, ModelSource, PromptsConfig, PromptSource
from charter.config.supervised import FinetuneConfig, GatesConfig, ReviseConfig
from charter.config.training import LoraConfig, TrainingConfig
from charter.config.whole import Config, Learning

__all__ = [
    "STARTER",
    "Column",
    "CompareConfig",
    "Config",
    "ConstraintConfig",
    "DpoConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "GatesConfig",
    "HumanPreferences",
    "Learning",
    "LoraConfig",
    "ModelSource",
    "ModelsConfig",
    "PromptSource",
    "PromptsConfig",
    "ReinforceConfig",
    "ReviseConfig",
    "RewardConfig",
    "TrainingConfig",
    "load_config",
]
