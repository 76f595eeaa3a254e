"""The settings that a run's results depend on, flat, so that two runs can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, cast

from charter.config import Config

FREE_SETTINGS = (
    "models.*.capacity",
    "*.max_failed",
    "*.checkpoint_every_s",
    "finetune.shard",
    "compare.max_position_bias",
)
"""Settings that change no result, and so may change in a run that exists."""
_INPUT_PATHS = ("constitution", "evaluate.constitution", "prompts.*.path", "compare.human.path")
"""Settings that name a file whose content counts, wherever it lies."""


def settings(config: Config, *sections: str) -> dict[str, Any]:
    """The settings that shape results, by dotted key: what a stage's records depend on.

    Args:
        config: The resolved configuration.
        sections: Sections to take, or single settings of the top level; none means all.
    """
    flat = _flat(config.model_dump(mode="json"))
    return {
        key: value
        for key, value in flat.items()
        if (not sections or key.split(".", 1)[0] in sections)
        and not any(fnmatchcase(key, free) for free in FREE_SETTINGS + _INPUT_PATHS)
    }


def differences(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Lines `key: old -> new` for every key whose values differ; a key left out is null."""
    return [
        f"{key}: {json.dumps(known.get(key))} -> {json.dumps(wanted.get(key))}"
        for key in {**known, **wanted}
        if known.get(key) != wanted.get(key)
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested value's leaves by dotted key. A list of plain values is one leaf."""
    if isinstance(value, dict):
        children = cast("dict[str, Any]", value)
    elif isinstance(value, list) and any(
        isinstance(item, dict) for item in cast("list[Any]", value)
    ):
        children = {str(i): item for i, item in enumerate(cast("list[Any]", value))}
    else:
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for name, child in children.items():
        leaves |= _flat(child, f"{prefix}.{name}" if prefix else name)
    return leaves
