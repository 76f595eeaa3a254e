"""Where an interrupted training goes on from: directories that are whole or are not there.

`step-N` holds everything that step N + 1 needs, `best-N` the weights after the best validation.
Tensors are safetensors, the rest is JSON, nothing is a pickle. There is no random state: each step
seeds itself (see `train.py`). Every directory lists the hashes of its files, so that a damaged one
is noticed, and the one before it is used.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from safetensors import SafetensorError
from safetensors.torch import (
    load_file,  # pyright: ignore[reportUnknownVariableType]
    save_file,  # pyright: ignore[reportUnknownVariableType]
)
from torch import Tensor

from charter.errors import RunError
from charter.launch import from_main
from charter.learning.metrics import Row
from charter.records import Record
from charter.run import file_hash, sync

_log = logging.getLogger(__name__)

_KEPT = 2
"""Steps kept: the newest, and one to fall back on."""
_SAVING_SHARE = 0.05
"""Of the time of a training, the most that saving may take."""
_MANIFEST = "manifest.json"
_PARTIAL = ".partial-"

Tensors = dict[str, Tensor]


class Cadence:
    """When to save the next checkpoint: every so many seconds, or seldom enough to be cheap.

    Processes that train together ask together, and the main one's clock decides.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._saved = time.monotonic()
        self._took_s = 0.0

    def save_if_due(self, save: Callable[[], object]) -> None:
        """Saves where it is time; what takes long is done less often than was asked for."""
        if not from_main(self._is_due):
            return
        began = time.monotonic()
        save()
        self._saved = time.monotonic()
        self._took_s = self._saved - began

    def _is_due(self) -> bool:
        passed_s = time.monotonic() - self._saved
        return passed_s >= (
            max(self._every_s, self._took_s / _SAVING_SHARE) if self._every_s else 0
        )


class TrainingState(Record):
    """Where a training stands."""

    identity: str
    """Names the model, the data and the recipe: what may not change between two starts."""
    step: int
    """Optimizer steps taken."""
    rows: tuple[Row, ...] = ()
    """All metrics up to here: the file is made of these, so it cannot run ahead of the weights."""
    best_step: int | None = None
    """Which `best-N` belongs to this state."""


@dataclass(frozen=True)
class Checkpoint:
    """A state, and the tensors that go with it."""

    state: TrainingState
    weights: Tensors
    moments: Tensors


@contextmanager
def whole_directory(path: Path) -> Generator[Path]:
    """A directory to fill, which becomes `path` only when it is complete and on the disk.

    What was at `path` before is replaced.

    Raises:
        RunError: The disk is full, or may not be written to.
    """
    partial = path.with_name(_PARTIAL + path.name)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for file in (*sorted(partial.rglob("*")), partial):
            sync(file)
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"cannot write {path}: {error}. Make room or mend permissions and run again: training "
            "goes on from its last checkpoint"
        ) from error


def save_step(directory: Path, checkpoint: Checkpoint) -> None:
    """Writes `step-N`, and removes what no longer serves."""
    with whole_directory(directory / f"step-{checkpoint.state.step}") as partial:
        save_file(checkpoint.weights, partial / "weights.safetensors")
        save_file(checkpoint.moments, partial / "moments.safetensors")
        (partial / "state.json").write_text(checkpoint.state.model_dump_json(), encoding="utf-8")
        _write_manifest(partial)
    _prune(directory)


def save_best(directory: Path, step: int, *, weights: Tensors) -> None:
    """Writes `best-N`."""
    with whole_directory(directory / f"best-{step}") as partial:
        save_file(weights, partial / "weights.safetensors")
        _write_manifest(partial)


def load_step(directory: Path) -> Checkpoint | None:
    """The newest step that is undamaged, with the best weights it refers to; None: start anew."""
    for step in reversed(_numbers(directory, "step")):
        path = directory / f"step-{step}"
        if not _is_whole(path):
            _log.warning("checkpoint %s is damaged: the one before it is used", path)
            continue
        state = TrainingState.model_validate_json((path / "state.json").read_bytes())
        if state.best_step is not None and not _is_whole(directory / f"best-{state.best_step}"):
            _log.warning("checkpoint %s has lost best-%d: not used", path, state.best_step)
            continue
        return Checkpoint(
            state,
            weights=load_file(path / "weights.safetensors"),
            moments=load_file(path / "moments.safetensors"),
        )
    return None


def discard_after(directory: Path, step: int) -> None:
    """Removes what a training that goes on from `step` is to make again, and half-written rest."""
    for kind in ("step", "best"):
        for number in _numbers(directory, kind):
            if number > step:
                shutil.rmtree(directory / f"{kind}-{number}")
    for partial in directory.glob(_PARTIAL + "*"):
        shutil.rmtree(partial)


def load_best(directory: Path, step: int) -> Tensors:
    """The weights after the best validation, which came at `step`."""
    return load_file(directory / f"best-{step}" / "weights.safetensors")


def _prune(directory: Path) -> None:
    """Keeps the newest steps, and every best that one of them or a later step refers to."""
    steps = _numbers(directory, "step")
    for step in steps[:-_KEPT]:
        shutil.rmtree(directory / f"step-{step}")
    # A step refers to the last best at or before it: of those before the oldest step, one stays.
    oldest = steps[-_KEPT:][0]
    superseded = [best for best in _numbers(directory, "best") if best <= oldest][:-1]
    for step in superseded:
        shutil.rmtree(directory / f"best-{step}")


def _numbers(directory: Path, kind: str) -> list[int]:
    names = (path.name.removeprefix(f"{kind}-") for path in directory.glob(f"{kind}-*"))
    return sorted(int(name) for name in names if name.isdecimal())


def _write_manifest(directory: Path) -> None:
    hashes = {path.name: file_hash(path) for path in sorted(directory.iterdir())}
    (directory / _MANIFEST).write_text(json.dumps(hashes), encoding="utf-8")


def _is_whole(directory: Path) -> bool:
    try:
        manifest = cast("object", json.loads((directory / _MANIFEST).read_bytes()))
    except (FileNotFoundError, ValueError):
        return False
    if not isinstance(manifest, Mapping):
        return False
    hashes = cast("Mapping[str, str]", manifest)
    return bool(hashes) and all(
        (directory / name).is_file() and file_hash(directory / name) == expected
        for name, expected in hashes.items()
    )
