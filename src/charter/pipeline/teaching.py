"""What the stages that train have in common: whom they teach, where it goes, how it is counted."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from charter.learning.lesson import Places, TrainingResult
from charter.learning.pupil import Pupil
from charter.models.loading import Loaded
from charter.run import RunDirectory, Tally


def pupil_of(loaded: Loaded) -> Pupil:
    """A loaded model as one that is to be trained."""
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
    if out.exists() and not any(out.glob("*.safetensors")):
        shutil.rmtree(out)
    return Places(
        out=out,
        checkpoints=directory.models / f"{model}.checkpoints",
        metrics=directory.metrics / f"{stage}.jsonl",
    )


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
