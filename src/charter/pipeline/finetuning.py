"""The finetune stage: demonstrations, split by prompt, into models/sft."""

from __future__ import annotations

import shutil
import time

from charter.errors import RunError
from charter.models.loading import load
from charter.pipeline.roles import trained_source
from charter.pipeline.workspace import Workspace
from charter.prompts import read_prompts
from charter.run import Tally, write_jsonl
from charter.supervised.demonstrations import read_demonstrations
from charter.supervised.finetune import FinetuneResult, Places, Pupil, finetune
from charter.supervised.split import Split, split


def finetune_stage(workspace: Workspace) -> Tally:
    """Trains the SFT model; an interrupted training goes on from its last checkpoint.

    Raises:
        RunError: There are no demonstrations yet.
        GuardError: Training would be useless or has gone wrong.
    """
    began = time.monotonic()
    config, directory = workspace.config, workspace.directory
    parts = split_demonstrations(workspace)
    write_jsonl(directory.data / "sft_train.jsonl", parts.train)
    write_jsonl(directory.data / "sft_validation.jsonl", parts.validation)
    out = directory.models / "sft"
    if out.exists() and not any(out.glob("*.safetensors")):
        shutil.rmtree(out)  # what is left of a model that somebody deleted in part
    source = trained_source(config.models)
    loaded = load(source)
    result = finetune(
        parts.train,
        validation=parts.validation,
        section=config.finetune,
        pupil=Pupil(
            source=source.source,
            model=loaded.model,
            tokenizer=loaded.tokenizer,
            encoder=loaded.encoder,
            fingerprint=loaded.fingerprint,
            context=loaded.context,
        ),
        constitution=workspace.constitution,
        seed=config.seed,
        places=Places(
            out=out,
            checkpoints=directory.models / "sft.checkpoints",
            metrics=directory.metrics / "finetune.jsonl",
        ),
        progress=workspace.progress,
    )
    return _tally(parts, result, seconds=time.monotonic() - began)


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


def _tally(parts: Split, result: FinetuneResult, *, seconds: float) -> Tally:
    """Accounts for demonstrations: trained or validated on, or left out for a reason."""
    reasons = dict(parts.dropped)
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
