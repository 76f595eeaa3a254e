"""What the stages that train have in common: whom they teach what, where it goes, how it counts."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from torch import nn

from charter.config import DpoConfig, ModelSource, RewardConfig
from charter.errors import RunError
from charter.feedback.pairs import PairSplit, split_pairs
from charter.feedback.preferences import read_preferences
from charter.launch import from_main, is_launched
from charter.learning.lesson import RESULT, Places, TrainingResult
from charter.learning.pupil import Pupil
from charter.models.loading import Loaded
from charter.pipeline.gathering import human_preferences
from charter.pipeline.roles import trained_source
from charter.pipeline.workspace import Workspace
from charter.prompts import read_prompts
from charter.records import PreferencePair
from charter.run import RunDirectory, Tally, write_jsonl

_log = logging.getLogger(__name__)


def sft_source(workspace: Workspace) -> ModelSource:
    """The SFT model of the run, which the feedback half starts from.

    Raises:
        RunError: It is not there yet.
    """
    at = workspace.directory.models / "sft"
    if not at.exists():
        raise RunError(f"{at}: no model yet. Run `charter finetune` first.")
    return trained_source(workspace.config.models, at=at)


def pupil_of(loaded: Loaded, *, shard: bool = False) -> Pupil:
    """A loaded model as one that is to be trained.

    Args:
        loaded: The model; its own, since it is changed in place.
        shard: Whether a copy is trained that is spread over the processes. The model then waits on
            the CPU, where in float32 it need not fit beside anything on a GPU, or at all.
    """
    if shard and is_launched():
        cast("nn.Module", loaded.model).to("cpu")
    elif shard:
        _log.warning("`shard` changes nothing in a process alone: launch several, by torchrun")
    return Pupil(
        source=loaded.name,
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        encoder=loaded.encoder,
        fingerprint=loaded.fingerprint,
        context=loaded.context,
    )


def places_in(directory: RunDirectory, *, model: str, stage: str) -> Places:
    """Where a stage writes its model; what somebody deleted in part is cleared away."""
    out = directory.models / model
    from_main(lambda: _clear_remains(out))
    return Places(
        out=out,
        checkpoints=directory.models / f"{model}.checkpoints",
        metrics=directory.metrics / f"{stage}.jsonl",
    )


def _clear_remains(out: Path) -> None:
    whole = any(out.glob("*.safetensors")) and (out / RESULT).exists()
    if out.exists() and not whole:
        shutil.rmtree(out)


def training_tally(result: TrainingResult, *, dropped: Mapping[str, int], seconds: float) -> Tally:
    """Accounts for examples: trained or validated on, or left out for a reason.

    Args:
        result: What training came to.
        dropped: How many were left out before it, by reason.
        seconds: That the stage took.
    """
    reasons = dict(dropped)
    if result.too_long:
        reasons["too_long"] = len(result.too_long)
    used = result.examples + result.validation_examples
    filtered = sum(reasons.values())
    return Tally(
        entered=used + filtered,
        done=used,
        filtered=filtered,
        reasons=reasons,
        seconds=round(seconds, 3),
        tokens=result.tokens,
    )


def divided_preferences(
    workspace: Workspace, *, section: RewardConfig | DpoConfig, stage: str
) -> PairSplit:
    """The run's preferences for training and for validation, none near a held-out prompt.

    Both parts are written down beside the preferences, in the same form.

    Raises:
        RunError: There are no preferences yet.
        PromptError: There are not two different prompts to put on two sides.
    """
    return from_main(lambda: _divided(workspace, section=section, stage=stage))


def _divided(workspace: Workspace, *, section: RewardConfig | DpoConfig, stage: str) -> PairSplit:
    prompts, data = workspace.config.prompts, workspace.directory.data
    parts = split_pairs(
        _preferences(workspace),
        section=section,
        stage=stage,
        heldout=tuple(read_prompts(prompts.heldout, system=prompts.system)),
        seed=workspace.config.seed,
    )
    write_jsonl(data / f"{stage}_train.jsonl", parts.train)
    write_jsonl(data / f"{stage}_validation.jsonl", parts.validation)
    return parts


def _preferences(workspace: Workspace) -> list[PreferencePair]:
    """What the compare stage made; where it never ran, people's preferences alone."""
    path = workspace.directory.data / "preferences.jsonl"
    if path.exists():
        return list(read_preferences(path))
    if workspace.config.compare.human is None:
        raise RunError(
            f"{path}: no preferences yet. Run `charter compare` first, or name people's "
            "preferences: compare.human.path"
        )
    people = human_preferences(workspace)
    _log.warning(
        "%s is not there: learning from the %d preferences of compare.human alone",
        path,
        len(people),
    )
    return people
