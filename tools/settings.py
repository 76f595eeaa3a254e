"""Writes docs/settings.md, the reference of all settings, from the configuration's own classes.

Run it after a change of `src/charter/config/`: `python -m tools.settings`. A test holds the file to
what this writes.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from charter.config import Config, TrainingConfig
from charter.config.section import Section
from charter.run.settings import FREE_SETTINGS

SETTINGS = Path(__file__).parents[1] / "docs" / "settings.md"

_HEAD = """\
# Every setting, with its default

Written by `python -m tools.settings` from the classes in `src/charter/config/`: change it there.

The keys of `charter.yaml` by section. An unknown key is an error, and `charter check` names the
nearest right one. On the command line a setting is a dotted path: `--set finetune.epochs=2`,
`--set 'learn=[sft, rl]'`. Paths in the file are relative to the file, those of `--set` to the
working directory.

A run that exists keeps its settings, and goes on under no others. Only those that no result
depends on may change in it:
{free}.
For anything else begin another run: `--run NEW --reuse OLD` takes over every finished model call
that the change does not touch.

*required* has no default; *none* means that nothing is set, with the effect that is stated.
"""
_COLUMNS = "| setting | default | values | what it is |\n|---|---|---|---|\n"
_PLAIN = {
    bool: "`true` or `false`",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
}

Places = Mapping[type[BaseModel], Sequence[str]]
"""Where in a configuration a class of settings stands."""


def settings_text() -> str:
    """The reference in Markdown."""
    places = _places(Config)
    parts = [_HEAD.format(free=", ".join(f"`{name}`" for name in FREE_SETTINGS))]
    for section, keys in places.items():
        parts.append(f"## {_title(keys)}\n\n{_intro(section)}\n\n{_table(section, places)}")
    return "\n".join(parts)


def _places(root: type[Section]) -> Places:
    """The classes in the order of the configuration; one that several keys share stands once."""
    found: dict[type[BaseModel], list[str]] = {root: []}

    def visit(section: type[BaseModel], path: str) -> None:
        for name, field in section.model_fields.items():
            for inner in _sections_in(field.annotation):
                below = f"{path}{name}"
                found.setdefault(inner, []).append(below)
                if issubclass(inner, TrainingConfig):
                    found.setdefault(TrainingConfig, []).append(below)
                visit(inner, f"{below}.")

    visit(root, "")
    return found


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)


def _title(keys: Sequence[str]) -> str:
    return ", ".join(f"`{key}`" for key in dict.fromkeys(keys)) or "At the top"


def _intro(section: type[BaseModel]) -> str:
    told = inspect.cleandoc(section.__doc__ or "").replace("->", "→")
    if issubclass(section, TrainingConfig) and section is not TrainingConfig:
        told += " Beside these it has the settings of every training, below."
    return told


def _table(section: type[BaseModel], places: Places) -> str:
    told = _told(section)
    rows = [
        f"| `{name}` | {_default(field)} | {_values(field, places)} | {told.get(name, '')} |"
        for name, field in section.model_fields.items()
        if name in section.__annotations__ and not _is_heading(field)
    ]
    return _COLUMNS + "\n".join(rows) + "\n"


def _is_heading(field: FieldInfo) -> bool:
    """Whether a setting is always a section, which has a table of its own."""
    annotation = field.annotation
    is_section = isinstance(annotation, type) and issubclass(annotation, Section)
    return is_section and not field.metadata and type(field.default) is annotation


def _told(section: type[BaseModel]) -> dict[str, str]:
    """What stands below each field of a class."""
    (body,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        match field, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str() as text)),
            ):
                found[name] = _in_yaml(" ".join(text.split()).replace("|", "\\|"))
            case _:
                pass
    return found


def _in_yaml(text: str) -> str:
    """What a docstring says, with values as they are written in a configuration."""
    return text.replace("None", "*none*").replace("False:", "`false`:")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    value = field.default
    if value is None:
        return "*none*"
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_defaults=True)
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    match value:
        case str():
            return value
        case list() | tuple():
            return f"[{', '.join(map(_yaml, value))}]"
        case dict():
            return f"{{{', '.join(f'{key}: {_yaml(item)}' for key, item in value.items())}}}"
        case _:
            return json.dumps(value)


def _values(field: FieldInfo, places: Places) -> str:
    return _kind(field.annotation, places) + _bounds(field.metadata)


def _kind(annotation: Any, places: Places) -> str:
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"see `{places[annotation][0]}`"
    inner = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Annotated:
            return _kind(inner[0], places) + _bounds(inner[1:])
        case origin if origin is Literal:
            return " or ".join(f"`{value}`" for value in inner)
        case origin if origin in (Union, UnionType):
            return " or ".join(_kind(item, places) for item in inner if item is not NoneType)
        case origin if origin is tuple and inner[-1] is not Ellipsis:
            return f"{len(inner)} values, each {_kind(inner[0], places)}"
        case origin if origin is tuple:
            return f"list: {_kind(inner[0], places)}"
        case _:
            keys, values = inner
            return f"mapping of {_kind(keys, places)} to {_kind(values, places)}"


def _bounds(metadata: Sequence[Any]) -> str:
    """What a number must be beyond a number, in brackets."""
    signs = ", ".join(_signs(metadata))
    return f" ({signs})" if signs else ""


def _signs(metadata: Sequence[Any]) -> Iterator[str]:
    for bound in metadata:
        match bound:
            case Ge(ge=least):
                yield f"≥ {least:g}"
            case Gt(gt=below):
                yield f"> {below:g}"
            case Le(le=most):
                yield f"≤ {most:g}"
            case Lt(lt=above):
                yield f"< {above:g}"
            case FieldInfo():
                yield from _signs(bound.metadata)
            case _:
                pass


if __name__ == "__main__":
    SETTINGS.write_text(settings_text(), encoding="utf-8")
