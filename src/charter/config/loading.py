"""Reads a configuration: from YAML and `--set`, with every path made absolute."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from charter.config.sources import STARTER, ModelsConfig, ModelSource, PromptSource
from charter.config.whole import Config
from charter.documents import Document, read_yaml, validate
from charter.errors import ConfigError


def load_config(path: Path, *, overrides: Sequence[str] = ()) -> Config:
    """The configuration in a YAML file, with every path made absolute.

    Args:
        path: The file; paths in it are relative to its folder.
        overrides: `section.key=value` settings, as given to `--set`; the value is read as YAML,
            and paths in it are relative to the working directory.

    Raises:
        ConfigError: Lists every mistake with file, line, column and remedy.
    """
    document = read_yaml(path, error=ConfigError)
    config = _resolved(validate(document, Config, error=ConfigError), folder=path.parent)
    if not overrides:
        return config
    data = config.model_dump(mode="json")
    for override in overrides:
        _apply(data, override)
    settings = Document(Path("--set"), data)
    changed = validate(settings, Config, error=ConfigError)
    return _resolved(changed, folder=Path(), settled=config.models)


def _apply(data: dict[str, Any], override: str) -> None:
    """Sets one dotted key in nested mappings; the schema judges the result afterwards."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {override}: write it as section.key=value")
    try:
        value = YAML(typ="safe", pure=True).load(text)  # pyright: ignore[reportUnknownMemberType]
    except YAMLError as cause:
        raise ConfigError(f"--set {override}: the value is not valid YAML: {cause}") from cause
    *sections, key = dotted.split(".")
    for section in sections:
        if data.get(section) is None:
            data[section] = {}
        if not isinstance(data[section], dict):
            raise ConfigError(f"--set {override}: `{section}` has no keys below it")
        data = cast("dict[str, Any]", data[section])
    data[key] = value


def _resolved(config: Config, *, folder: Path, settled: ModelsConfig | None = None) -> Config:
    """The configuration with paths relative to `folder` made absolute.

    A model that `settled` has in the same role stays what it is: a hub id must not turn into a
    folder that happens to lie in another place.
    """

    def sources(items: tuple[PromptSource, ...]) -> tuple[PromptSource, ...]:
        return tuple(
            item.model_copy(update={"path": _absolute(item.path, folder)}) for item in items
        )

    graded, human, base = config.evaluate.constitution, config.compare.human, config.reward.base
    prompts, models = config.prompts, config.models

    def model(role: str) -> ModelSource | None:
        named: ModelSource | None = getattr(models, role)
        known: ModelSource | None = getattr(settled, role, None)
        if named is None or (known is not None and named.source == known.source):
            return named
        return _resolved_model(named, folder)

    return config.model_copy(
        update={
            "constitution": _absolute(config.constitution, folder),
            "prompts": prompts.model_copy(
                update={
                    "train": sources(prompts.train),
                    "heldout": sources(prompts.heldout),
                    "rl": prompts.rl and sources(prompts.rl),
                }
            ),
            "models": models.model_copy(
                update={role: model(role) for role in type(models).model_fields}
            ),
            "compare": config.compare.model_copy(
                update={
                    "human": human
                    and human.model_copy(update={"path": _absolute(human.path, folder)})
                }
            ),
            "reward": config.reward.model_copy(
                update={"base": base and _resolved_model(base, folder)}
            ),
            "evaluate": config.evaluate.model_copy(
                update={"constitution": graded and _absolute(graded, folder)}
            ),
        }
    )


def _resolved_model(model: ModelSource, folder: Path) -> ModelSource:
    """A path is what starts like one or exists; anything else is a hub id."""
    scheme, colon, rest = model.source.partition(":")
    if colon and scheme == "scripted":
        return model.model_copy(update={"source": f"scripted:{_absolute(Path(rest), folder)}"})
    candidate = _absolute(Path(model.source), folder)
    looks_like_path = model.source.startswith((".", "/", "~"))
    if model.source != STARTER and (looks_like_path or candidate.is_dir()):
        return model.model_copy(update={"source": str(candidate)})
    return model


def _absolute(path: Path, folder: Path) -> Path:
    return Path(os.path.abspath(folder / path.expanduser()))  # noqa: PTH100 - keeps symbolic links
