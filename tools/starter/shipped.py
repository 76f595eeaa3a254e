"""The files that the starter ships, read for measuring and testing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import charter
from charter import constitution
from charter.records import Prompt

STARTER = Path(charter.__file__).parent / "starter"


def load_constitution(folder: Path = STARTER) -> constitution.Constitution:
    """The starter's constitution."""
    return constitution.load_constitution(folder / "constitution.yaml")


def load_bank(folder: Path = STARTER) -> constitution.Constitution:
    """The second constitution for the same world: a terse bank's."""
    return constitution.load_constitution(folder / "bank.yaml")


def load_prompts(name: Literal["train", "rl", "heldout"], folder: Path = STARTER) -> list[Prompt]:
    """The starter's prompts."""
    lines = (folder / "prompts" / f"{name}.jsonl").read_text().splitlines()
    return [Prompt.model_validate_json(line) for line in lines]
