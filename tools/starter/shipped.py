"""The files that the starter ships, read for measuring and testing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import charter
from charter import constitution
from charter.records import Prompt

STARTER = Path(charter.__file__).parent / "starter"


def load_constitution() -> constitution.Constitution:
    """The starter's constitution."""
    return constitution.load_constitution(STARTER / "constitution.yaml")


def load_prompts(name: Literal["train", "heldout"]) -> list[Prompt]:
    """The starter's prompts."""
    lines = (STARTER / "prompts" / f"{name}.jsonl").read_text().splitlines()
    return [Prompt.model_validate_json(line) for line in lines]
