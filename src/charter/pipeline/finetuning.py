"""The finetune stage: demonstrations, split by prompt, into models/sft."""

from __future__ import annotations

import time

from charter.errors import RunError
from charter.launch import from_main
from charter.models.loading import load
from charter.pipeline.roles import trained_source
from charter.pipeline.teaching import places_in, pupil_of, training_tally
from charter.pipeline.workspace import Workspace
from charter.prompts import read_prompts
from charter.run import Tally, write_jsonl
from charter.supervised.demonstrations import read_demonstrations
from charter.supervised.finetune import finetune
from charter.supervised.split import Split, split


def finetune_stage(workspace: Workspace) -> Tally:
    """Trains the SFT model; an interrupted training goes on from its last checkpoint.

    Raises:
        RunError: There are no demonstrations yet.
        GuardError: Training would be useless or has gone wrong.
    """
    began = time.monotonic()
    config, directory = workspace.config, workspace.directory
    parts = from_main(lambda: _written_parts(workspace))
    result = finetune(
        parts.train,
        validation=parts.validation,
        section=config.finetune,
        pupil=pupil_of(load(trained_source(config.models)), shard=config.finetune.shard),
        constitution=workspace.constitution,
        seed=config.seed,
        places=places_in(directory, model="sft", stage="finetune"),
        progress=workspace.progress,
    )
    return training_tally(result, dropped=parts.dropped, seconds=time.monotonic() - began)


def _written_parts(workspace: Workspace) -> Split:
    """The demonstrations in two parts, which are written down beside them too."""
    parts, data = split_demonstrations(workspace), workspace.directory.data
    write_jsonl(data / "sft_train.jsonl", parts.train)
    write_jsonl(data / "sft_validation.jsonl", parts.validation)
    return parts


def split_demonstrations(workspace: Workspace) -> Split:
    """The run's demonstrations for training and for validation, none near a held-out prompt.

    Raises:
        RunError: There are none yet.
    """
    path, prompts = workspace.directory.data / "demonstrations.jsonl", workspace.config.prompts
    if not path.exists():
        raise RunError(f"{path}: no demonstrations yet. Run `charter revise` first.")
    return split(
        tuple(read_demonstrations(path)),
        section=workspace.config.finetune,
        heldout=tuple(read_prompts(prompts.heldout, system=prompts.system)),
        seed=workspace.config.seed,
    )
