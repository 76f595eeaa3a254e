"""How a run criticises and revises: settled once, while revising, and the same ever after."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from charter.config import ReviseConfig
from charter.errors import RunError
from charter.pipeline.roles import Roles
from charter.pipeline.workspace import Workspace
from charter.records import Record
from charter.run import write_atomically
from charter.screening import DEFAULT_THRESHOLD, Threshold, fit_threshold
from charter.supervised.revise import Reviser

log = logging.getLogger(__name__)


class Screening(Record):
    """How principles were chosen in the end: `metrics/screening.json`."""

    selection: Literal["screen", "random", "all"]
    """As configured, or `random` where screening proved to be of no use."""
    threshold: Threshold | None
    """What was fitted, if anything was."""


async def settled_reviser(workspace: Workspace, *, roles: Roles) -> tuple[Reviser, Screening]:
    """How this run criticises and revises: as written down, or fitted now.

    Screening that cannot tell the principles' own tests apart is replaced by random draws.

    Raises:
        RunError: What was written down cannot be read.
    """
    known = _read(_path(workspace))
    screening = known or await _fitted(workspace, roles=roles)
    section = workspace.config.revise.model_copy(update={"selection": screening.selection})
    reviser = Reviser(
        constitution=workspace.constitution,
        critic=roles.critic,
        reviser=roles.reviser,
        section=section,
        threshold=_value(section, screening.threshold),
    )
    return reviser, screening


def at_random(reviser: Reviser, screening: Screening) -> tuple[Reviser, Screening]:
    """The same with principles drawn at random."""
    section = reviser.section.model_copy(update={"selection": "random"})
    return replace(reviser, section=section), screening.model_copy(update={"selection": "random"})


def write_down(workspace: Workspace, screening: Screening) -> None:
    """Keeps what was settled, so that later stages do the same."""
    write_atomically(_path(workspace), screening.model_dump_json(indent=2) + "\n")


def _path(workspace: Workspace) -> Path:
    return workspace.directory.metrics / "screening.json"


def _read(path: Path) -> Screening | None:
    if not path.exists():
        return None
    try:
        return Screening.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RunError(f"{path}: cannot be read: {error}. Delete it and run again.") from error


async def _fitted(workspace: Workspace, *, roles: Roles) -> Screening:
    section = workspace.config.revise
    if section.selection != "screen" or section.threshold != "fit":
        return Screening(selection=section.selection, threshold=None)
    threshold = await fit_threshold(workspace.constitution, judge=roles.critic)
    if not threshold.tells_nothing:
        return Screening(selection="screen", threshold=threshold)
    log.warning(
        "screening cannot tell the principles' own tests apart (it sees %.0f %% of the replies "
        "that break one and lets %.0f %% of the others through); going on with principles drawn "
        "at random (revise.selection=random)",
        100 * (threshold.recall or 0.0),
        100 * (threshold.specificity or 0.0),
    )
    return Screening(selection="random", threshold=threshold)


def _value(section: ReviseConfig, threshold: Threshold | None) -> float:
    if threshold is not None:
        return threshold.value
    return DEFAULT_THRESHOLD if section.threshold == "fit" else section.threshold
