"""What the stages of one run share: its configuration, its rules, its directory, its models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from charter.config import Config, PromptSource, load_config
from charter.console import Progress, Silent
from charter.constitution import Constitution, load_constitution
from charter.errors import RunError
from charter.journal import Journal
from charter.launch import from_main, is_follower
from charter.run import RunDirectory, file_hash, journal_path, write_atomically


@dataclass(frozen=True)
class Request:
    """What a command asks of the pipeline."""

    config: Path
    run: Path
    overrides: tuple[str, ...] = ()
    until: str | None = None
    """Stop after this stage."""
    only: str | None = None
    """Run this stage alone; the ones before it must be done."""
    reuse: tuple[Path, ...] = ()
    """Other runs whose finished calls may be taken over."""
    resumes: bool = False
    """The run must be there already."""


@dataclass(frozen=True)
class Workspace:
    """An open run."""

    config: Config
    constitution: Constitution
    graded: Constitution
    """The constitution that evaluation grades by."""
    directory: RunDirectory
    journal: Journal
    progress: Progress


@contextmanager
def open_workspace(request: Request, *, progress: Progress) -> Generator[Workspace]:
    """The run that a request is about, locked for this process.

    Of a launcher's processes the main one has it open; the others read its files, and their own
    calls of models go to a journal that is thrown away.

    Raises:
        ConfigError: The configuration is wrong; likewise `ConstitutionError` and `PromptError`.
        LockedError: Another process works there.
        RunError: The directory holds another run, or cannot be written.
    """
    config = load_config(request.config, overrides=request.overrides)
    constitution = load_constitution(config.constitution)
    graded_path = config.evaluate.constitution
    graded = constitution if graded_path is None else load_constitution(graded_path)
    with ExitStack() as stack:
        if is_follower():
            from_main(lambda: None)  # the main process has opened it
            directory, journal = _followed(request.run, stack=stack)
        else:
            hashes = _hashes(config, constitution=constitution, graded=graded)
            directory, journal = _opened(request, config=config, hashes=hashes, stack=stack)
            from_main(lambda: None)
        yield Workspace(
            config=config,
            constitution=constitution,
            graded=graded,
            directory=directory,
            journal=journal,
            progress=Silent() if is_follower() else progress,
        )


def _opened(
    request: Request, *, config: Config, hashes: Mapping[str, str], stack: ExitStack
) -> tuple[RunDirectory, Journal]:
    """The run's directory and journal, which are closed with the stack."""
    reused = [_journal_of(run) for run in request.reuse]
    if request.resumes and not (request.run / "manifest.json").exists():
        raise RunError(f"--run {request.run}: no run there. Name one that `charter run` began.")
    directory = stack.enter_context(RunDirectory.open(request.run, config=config, hashes=hashes))
    journal = stack.enter_context(Journal(directory.journal, reuse=reused))
    if config.evaluate.constitution is not None:
        copy = directory.path / "evaluate.constitution.yaml"
        write_atomically(copy, config.evaluate.constitution.read_bytes())
    return directory, journal


def _followed(run: Path, *, stack: ExitStack) -> tuple[RunDirectory, Journal]:
    """The same of a run that another process has open; what is written here is thrown away."""
    scratch = Path(stack.enter_context(TemporaryDirectory(prefix="charter-")))
    journal = stack.enter_context(Journal(scratch / "journal.sqlite"))
    return RunDirectory.follow(run), journal


def _hashes(config: Config, *, constitution: Constitution, graded: Constitution) -> dict[str, str]:
    """The content of all that a run is made from."""
    hashes = {
        "constitution": constitution.hash,
        "prompts.train": _prompts_hash(config.prompts.train),
        "prompts.heldout": _prompts_hash(config.prompts.heldout),
    }
    if config.prompts.rl is not None:
        hashes["prompts.rl"] = _prompts_hash(config.prompts.rl)
    if config.compare.human is not None:
        hashes["compare.human"] = _content_hash(config.compare.human.path)
    if config.evaluate.constitution is not None:
        hashes["evaluate.constitution"] = graded.hash
    return hashes


def _journal_of(run: Path) -> Path:
    path = journal_path(run)
    if not path.exists():
        raise RunError(f"--reuse {run}: no journal there; name the directory of another run")
    return path


def _prompts_hash(sources: Sequence[PromptSource]) -> str:
    """A hash of what the prompt files hold and how they are read, wherever they lie."""
    digest = hashlib.sha256()
    for source in sources:
        reading = source.model_dump(mode="json", exclude={"path"})
        digest.update(json.dumps(reading, sort_keys=True).encode())
        if source.path.is_file():
            with source.path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _content_hash(path: Path) -> str:
    """A hash of what a file holds; empty where there is none, which its reader will say."""
    return file_hash(path)[:16] if path.is_file() else ""
