"""The dpo stage: preferences, split by prompt, into models/dpo and metrics/dpo.json."""

from __future__ import annotations

import time

from charter.feedback.dpo import STAGE, dpo
from charter.launch import from_main
from charter.models.loading import load
from charter.pipeline.teaching import (
    divided_preferences,
    places_in,
    pupil_of,
    sft_source,
    training_tally,
)
from charter.pipeline.workspace import Workspace
from charter.run import Tally, write_atomically


def dpo_stage(workspace: Workspace) -> Tally:
    """Trains the SFT model on preferences; an interrupted training goes on where it stopped.

    Raises:
        RunError: There are no preferences yet, or there is no SFT model.
        GuardError: Training would be useless or has gone wrong.
    """
    began = time.monotonic()
    config, directory = workspace.config, workspace.directory
    parts = divided_preferences(workspace, section=config.dpo, stage=STAGE)
    result = dpo(
        parts.train,
        validation=parts.validation,
        section=config.dpo,
        pupil=pupil_of(load(sft_source(workspace)), shard=config.dpo.shard),
        constitution=workspace.constitution,
        seed=config.seed,
        places=places_in(directory, model="dpo", stage=STAGE),
        progress=workspace.progress,
    )
    text = result.ordering.model_dump_json(indent=2) + "\n"
    from_main(lambda: write_atomically(directory.metrics / "dpo.json", text))
    return training_tally(result, dropped=parts.dropped, seconds=time.monotonic() - began)
