"""The reward stage: preferences, split by prompt, into models/reward and metrics/reward.json."""

from __future__ import annotations

import time
from pathlib import Path

from charter.feedback.reward import STAGE, read_ordering, require_accuracy, reward
from charter.feedback.scoring import RewardScorer, load_scorer
from charter.launch import from_main, own_device
from charter.models.loading import dtype_of, load
from charter.pipeline.roles import trained_source
from charter.pipeline.teaching import (
    divided_preferences,
    places_in,
    pupil_of,
    sft_source,
    training_tally,
)
from charter.pipeline.workspace import Workspace
from charter.run import Tally, write_atomically


def reward_stage(workspace: Workspace) -> Tally:
    """Trains the reward model; an interrupted training goes on from its last checkpoint.

    Raises:
        RunError: There are no preferences yet, or there is no model to start from.
        GuardError: Training would be useless or has gone wrong.
    """
    began = time.monotonic()
    config, directory = workspace.config, workspace.directory
    parts = divided_preferences(workspace, section=config.reward, stage=STAGE)
    result = reward(
        parts.train,
        validation=parts.validation,
        section=config.reward,
        pupil=pupil_of(
            load(config.reward.base or sft_source(workspace)), shard=config.reward.shard
        ),
        constitution=workspace.constitution,
        seed=config.seed,
        places=places_in(directory, model="reward", stage=STAGE),
        progress=workspace.progress,
    )
    text = result.ordering.model_dump_json(indent=2) + "\n"
    from_main(lambda: write_atomically(directory.metrics / "reward.json", text))
    return training_tally(result, dropped=parts.dropped, seconds=time.monotonic() - began)


def require_accurate_reward(workspace: Workspace) -> None:
    """The gate before RL: the run's reward model must order held-out pairs well enough.

    Raises:
        RunError: There is no reward model yet.
        GuardError: It is not accurate enough.
    """
    ordered = read_ordering(workspace.directory.metrics / "reward.json")
    require_accuracy(ordered, section=workspace.config.reward, run=workspace.directory.path)


def reward_scorer(workspace: Workspace, directory: Path) -> RewardScorer:
    """The reward model in a directory, in the dtype that its base is to be read in.

    Raises:
        BackendError: It is not there, or is no reward model.
        EncodingError: Its tokenizer or chat template cannot be used faithfully.
    """
    base = workspace.config.reward.base or trained_source(workspace.config.models)
    return load_scorer(directory, dtype=dtype_of(base, device=own_device()))
