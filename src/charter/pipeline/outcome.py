"""What a run has to show: its accounts, its figures, and the files worth opening."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from charter.console import Grid
from charter.errors import RunError
from charter.evaluation.figures import Evaluation
from charter.evaluation.table import table
from charter.pipeline.workspace import Workspace
from charter.report.accounts import accounts
from charter.run import Manifest

_CAPTIONS = {
    "report.html": "all of it on one page, for a browser",
    "evaluation.json": "every figure of the table, with intervals and differences",
    "data/answers.jsonl": "every answer behind it, graded",
    "data/head_to_head.jsonl": "which of two models' answers the judge preferred",
    "data/heldout.jsonl": "the prompts that were answered",
    "data/revisions.jsonl": "responses, critiques and revisions",
    "data/demonstrations.jsonl": "what passed the gates; sft_train.jsonl of it was trained on",
    "data/revision_pairs.jsonl": "revised over initial responses, for preference training",
    "data/preferences.jsonl": "soft preferences between responses, in TRL's form",
    "metrics/compare.json": "how far the judge can be trusted",
    "metrics/finetune.svg": "loss curves with the turning point",
    "metrics/reward.json": "how well the reward model orders held-out responses",
    "metrics/reward.svg": "its loss curves",
    "metrics/dpo.svg": "loss curves of DPO",
    "metrics/reinforce.jsonl": "every step of RL, and what the monitors saw",
    "models/rl": "the RL model: a Hugging Face directory",
    "models/reward": "the reward model: a Hugging Face directory",
    "models/dpo": "the DPO model: a Hugging Face directory",
    "models/sft": "the SFT model: a Hugging Face directory",
    "manifest.json": "what became of every record",
}


@dataclass(frozen=True)
class Outcome:
    """What a command of the pipeline has to show."""

    run: Path
    manifest: Manifest
    evaluation: Evaluation | None
    files: tuple[tuple[str, str], ...]
    """Files worth opening, each with a caption."""

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The accounts of the stages, and the figures if there are any."""
        figures = () if self.evaluation is None else (table(self.evaluation),)
        return (accounts(self.manifest), *figures)

    def summary(self) -> dict[str, Any]:
        """The outcome for machines."""
        return {
            "run": str(self.run),
            "manifest": self.manifest.model_dump(mode="json", by_alias=True),
            "evaluation": self.evaluation and self.evaluation.model_dump(mode="json"),
        }


def evaluation_path(run: Path) -> Path:
    """Where a run's figures stand."""
    return run / "evaluation.json"


def outcome(workspace: Workspace) -> Outcome:
    """What the run has to show as it stands."""
    run = workspace.directory.path
    return Outcome(
        run=run,
        manifest=workspace.directory.manifest,
        evaluation=_read_evaluation(evaluation_path(run)),
        files=tuple((name, text) for name, text in _CAPTIONS.items() if (run / name).exists()),
    )


def _read_evaluation(path: Path) -> Evaluation | None:
    """The figures, None where there are none yet."""
    if not path.exists():
        return None
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RunError(
            f"{path}: cannot be read ({error.error_count()} mistakes). Delete it and run "
            "`charter evaluate`: the answers are kept."
        ) from error
