"""Opens a run directory for one process, and refuses what would mix two runs."""

from __future__ import annotations

import fcntl
import importlib.metadata
import logging
import os
import platform
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import IO, cast

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from charter.config import Config
from charter.errors import LockedError, RunError
from charter.run.manifest import Manifest, Tally
from charter.run.settings import differences, settings
from charter.run.writing import write_atomically

_log = logging.getLogger(__name__)

_INPUTS = frozenset({"constitution", "prompts.train", "prompts.heldout"})


class RunDirectory:
    """A run directory that this process alone works in; a context manager."""

    def __init__(self, path: Path, *, lock: IO[str] | None, manifest: Manifest) -> None:
        """Use `RunDirectory.open`, or `follow`."""
        self.path = path
        self._lock = lock
        self._manifest = manifest

    @classmethod
    def open(cls, path: Path, *, config: Config, hashes: Mapping[str, str]) -> RunDirectory:
        """Lock the directory and begin a run in it, or go on with the one that is there.

        Args:
            path: The run directory; made if it does not exist.
            config: What is to be run.
            hashes: Content of every input file: `constitution`, `prompts.train`,
                `prompts.heldout`, and those that are set of `prompts.rl`, `compare.human` and
                `evaluate.constitution`.

        Raises:
            LockedError: Another process works there.
            RunError: It holds another run or other files, or cannot be written.
        """
        assert hashes.keys() >= _INPUTS, hashes
        _make_directory(path)
        lock = _locked(path)
        try:
            if (path / "config.yaml").exists() and (path / "manifest.json").exists():
                manifest = _resume(path, config=config, hashes=hashes)
            else:
                manifest = _begin(path, config=config, hashes=hashes)
        except BaseException:
            lock.close()
            raise
        return cls(path, lock=lock, manifest=manifest)

    @classmethod
    def follow(cls, path: Path) -> RunDirectory:
        """The directory as a process of the same launcher reads it, while another has it open.

        Raises:
            RunError: There is no run.
        """
        return cls(path, lock=None, manifest=_read_manifest(path / "manifest.json"))

    def close(self) -> None:
        """Let other processes in."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def data(self) -> Path:
        """Exports in TRL's formats."""
        return self.path / "data"

    @property
    def models(self) -> Path:
        """Trained models."""
        return self.path / "models"

    @property
    def metrics(self) -> Path:
        """What training said of itself."""
        return self.path / "metrics"

    @property
    def journal(self) -> Path:
        """Finished calls and records; see `journal.Journal`."""
        return journal_path(self.path)

    @property
    def manifest(self) -> Manifest:
        """The manifest as it stands on the disk."""
        return self._manifest

    def stage_done(self, stage: str) -> bool:
        """Whether the stage is finished and accounted for."""
        return stage in self._manifest.stages

    def record_stage(self, stage: str, tally: Tally) -> None:
        """Enter a finished stage in the manifest.

        Raises:
            RunError: The manifest cannot be written.
        """
        assert self._lock is not None, "a follower writes nothing"
        stages = {**self._manifest.stages, stage: tally}
        manifest = self._manifest.model_copy(update={"stages": stages})
        _write_manifest(self.path, manifest)
        self._manifest = manifest


def journal_path(run: Path) -> Path:
    """Where a run directory keeps its journal; of another run, what `--reuse` reads."""
    return run / "journal.sqlite"


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"cannot make the run directory {path}: {error}. Choose another: --run DIR."
        ) from error


def _locked(path: Path) -> IO[str]:
    """The lock file, open and locked. The system unlocks it when the process ends, however."""
    try:
        # Append mode: the holder's pid must survive the attempt of another process.
        lock = (path / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"cannot write to the run directory {path}: {error}. Choose another: --run DIR."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise LockedError(
            f"run directory {path} is in use by process {holder}. Wait until it ends, or stop it: "
            "what it has finished is kept. Or work in another: --run DIR."
        ) from error
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def _begin(path: Path, *, config: Config, hashes: Mapping[str, str]) -> Manifest:
    """Write down what a new run is made from."""
    ours = {"config.yaml", "constitution.yaml", "manifest.json"}
    names = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}
    # The manifest is written first: without it, a `config.yaml` is somebody else's.
    if names and ("manifest.json" not in names or names - ours):
        raise RunError(
            f"{path} holds other files ({', '.join(sorted(names - ours or names)[:3])}) and is no "
            "run directory. Choose another: --run DIR."
        )
    manifest = Manifest(versions=_versions(), hashes=dict(hashes), seed=config.seed)
    _write_manifest(path, manifest)
    write_atomically(path / "constitution.yaml", config.constitution.read_bytes())
    _write_config(path, config)
    return manifest


def _resume(path: Path, *, config: Config, hashes: Mapping[str, str]) -> Manifest:
    """The manifest of the run that is there, if it is the same run."""
    manifest = _read_manifest(path / "manifest.json")
    known = _read_config(path / "config.yaml")
    changes = [
        *differences(settings(known), settings(config)),
        *(f"content of {line}" for line in differences(manifest.hashes, hashes)),
    ]
    if changes:
        raise RunError(
            f"{path} holds a run that was made from something else:\n"
            + "".join(f"  {line}\n" for line in changes)
            + f"Begin another run: --run NEW. With --reuse {path} it takes over all that the "
            "change does not touch."
        )
    if changed := differences(manifest.versions, _versions()):
        _log.warning(
            "%s goes on with other versions (%s); results may differ from those of an "
            "uninterrupted run",
            path,
            ", ".join(changed),
        )
    if known != config:
        _write_config(path, config)
    return manifest


def _versions() -> dict[str, str]:
    packages = ("charter", "torch", "transformers")
    installed = {name: importlib.metadata.version(name) for name in packages}
    return {**installed, "python": platform.python_version()}


def _write_manifest(path: Path, manifest: Manifest) -> None:
    write_atomically(path / "manifest.json", manifest.model_dump_json(indent=2) + "\n")


def _read_manifest(path: Path) -> Manifest:
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise _unreadable(path, error) from error


def _write_config(path: Path, config: Config) -> None:
    text = StringIO()
    YAML().dump(config.model_dump(mode="json"), text)  # pyright: ignore[reportUnknownMemberType]
    write_atomically(path / "config.yaml", text.getvalue())


def _read_config(path: Path) -> Config:
    try:
        loaded = cast(
            "object",
            YAML(typ="safe").load(path),  # pyright: ignore[reportUnknownMemberType]
        )
        # Validated, so that a setting that is younger than the run counts with its default.
        return Config.model_validate(loaded)
    except (OSError, YAMLError, ValidationError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> RunError:
    return RunError(
        f"cannot read {path}: {error}. It was changed by hand or written by another version of "
        f"charter. Begin another run: --run NEW --reuse {path.parent}"
    )
