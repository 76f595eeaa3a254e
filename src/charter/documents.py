"""YAML files that users write: read safely, validated, every complaint with its line and column."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from charter.errors import CharterError, Problem, listed

_CORE = "tag:yaml.org,2002:"
_PLAIN = frozenset({"str", "int", "float", "bool", "null", "timestamp"})

Location = tuple[str | int, ...]
Node = Any
"""A node of ruamel.yaml, which has no types."""
Schema = TypeVar("Schema", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """A parsed YAML file: plain data, and where each part of it stands."""

    path: Path
    data: Any
    positions: Mapping[Location, tuple[int, int]] = field(default_factory=dict[Location, Any])
    """Line and column, from 1, of every key and list item."""

    def problem(self, location: Location, message: str) -> Problem:
        """A complaint about the part at `location`, or about the nearest part around it.

        It has no line and column where the document has no positions, as one that is no file.
        """
        if not self.positions:
            return Problem(self.path, message)
        while location and location not in self.positions:
            location = location[:-1]
        line, column = self.positions.get(location, (1, 1))
        return Problem(self.path, message, line, column)


def read_yaml(path: Path, *, error: type[CharterError]) -> Document:
    """The file's data with positions.

    Only plain YAML: no tags that build objects, and a key given twice is an error.

    Raises:
        CharterError: Of class `error`; the file is missing, not UTF-8, or not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise error(
            f"{path}: no such file. `charter init DIR` writes a project to start from."
        ) from None
    except (OSError, UnicodeDecodeError) as cause:
        raise error(f"{path}: cannot be read: {cause}. Save it as UTF-8 text.") from cause
    try:
        yaml, node = _composed(text)
    except YAMLError as cause:
        raise error(str(_syntax_problem(path, cause))) from cause
    if node is None:
        return Document(path, None)
    builder = _Builder(path, yaml)
    data = builder.build(node, ())
    if builder.problems:
        raise error(listed(builder.problems))
    return Document(path, data, builder.positions)


def _composed(text: str) -> tuple[YAML, Node]:
    """The root node, None of an empty text, and what scalars are resolved with.

    The C parser is ten times as fast, but refuses some of YAML 1.2 ("{ask: really?, ...}"): what
    it refuses, the Python one judges.
    """
    try:
        yaml = YAML(typ="safe")
        return yaml, yaml.compose(text)  # pyright: ignore[reportUnknownMemberType]
    except YAMLError:
        yaml = YAML(typ="safe", pure=True)
        return yaml, yaml.compose(text)  # pyright: ignore[reportUnknownMemberType]


def _syntax_problem(path: Path, cause: Any) -> Problem:
    mark = getattr(cause, "problem_mark", None)
    message = f"not valid YAML: {getattr(cause, 'problem', None) or cause}"
    return (
        Problem(path, message, mark.line + 1, mark.column + 1) if mark else Problem(path, message)
    )


class _Builder:
    """Turns YAML nodes into plain data and remembers where each came from."""

    def __init__(self, path: Path, yaml: Any) -> None:
        self._path = path
        self._yaml = yaml
        self.positions: dict[Location, tuple[int, int]] = {}
        self.problems: list[Problem] = []
        self._around: set[int] = set()
        """Which nodes the one being built lies in."""

    def build(self, node: Node, location: Location) -> Any:
        if id(node) in self._around:
            self._complain(node, "an anchor refers to itself; write the value out instead")
            return None
        self.positions.setdefault(location, _position(node))
        self._around.add(id(node))
        data = self._inside(node, location)
        self._around.remove(id(node))
        return data

    def _inside(self, node: Node, location: Location) -> Any:
        if isinstance(node, MappingNode):
            return self._mapping(node, location)
        if isinstance(node, SequenceNode):
            items: list[Node] = cast("Node", node).value
            return [self.build(item, (*location, i)) for i, item in enumerate(items)]
        assert isinstance(node, ScalarNode)
        return self._scalar(node)

    def _mapping(self, node: Node, location: Location) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in data:
                self._complain(key_node, f"`{key}` is given twice; keep one of them")
            self.positions[*location, key] = _position(key_node)
            data[key] = self.build(value_node, (*location, key))
        return data

    def _scalar(self, node: Node) -> Any:
        if str(node.tag).removeprefix(_CORE) not in _PLAIN:
            self._complain(node, f"the tag `{node.tag}` is not allowed; write a plain value")
            return None
        value = self._yaml.constructor.construct_object(node, deep=True)
        return value if isinstance(value, str | int | float | bool | None) else str(node.value)

    def _complain(self, node: Node, message: str) -> None:
        self.problems.append(Problem(self._path, message, *_position(node)))


def _position(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def validate(document: Document, schema: type[Schema], *, error: type[CharterError]) -> Schema:
    """The document as a `schema`.

    Raises:
        CharterError: Of class `error`; lists every mistake with its place and remedy.
    """
    try:
        return schema.model_validate(document.data)
    except ValidationError as cause:
        raise error(listed(_problems(document, schema, cause))) from None


def _problems(document: Document, schema: type[BaseModel], cause: ValidationError) -> list[Problem]:
    """One problem for every part that is wrong, in the order found."""
    found: dict[Location, list[ErrorDetails]] = {}
    for item in cause.errors(include_url=False):
        found.setdefault(_location(document, schema, item), []).append(item)
    return [
        document.problem(location, _explained(schema, location, items))
        for location, items in found.items()
        if not _has_mistakes_inside(location, found)
    ]


def _location(document: Document, schema: type[BaseModel], item: ErrorDetails) -> Location:
    """Where a mistake is, without the names that pydantic puts in for members of a union."""
    is_unknown_key = item["type"] == "extra_forbidden"
    around = item["loc"][:-1] if is_unknown_key else item["loc"]
    location: Location = ()
    for part in around:
        is_given = (*location, part) in document.positions
        if isinstance(part, int) or is_given or part in _keys_at(schema, location):
            location = (*location, part)
    return (*location, *item["loc"][len(around) :])


def _explained(schema: type[BaseModel], location: Location, items: Sequence[ErrorDetails]) -> str:
    match items[0]["type"]:
        case "extra_forbidden":
            return _unknown_key(str(location[-1]), _keys_at(schema, location[:-1]))
        case "missing":
            return f"`{location[-1]}` is missing; add it"
        case "too_short":
            return f"`{location[-1]}` is empty; it needs at least one item"
        case _:
            message = _either(items)
            return f"`{'.'.join(map(str, location))}`: {message}" if location else message


def _either(items: Iterable[ErrorDetails]) -> str:
    """What a value should be: each member of a union has an opinion of its own."""
    first, *others = dict.fromkeys(map(_message, items))
    return " or ".join([first, *(other.removeprefix("Input should be ") for other in others)])


def _message(item: ErrorDetails) -> str:
    """Pydantic's message in the words of someone who writes YAML."""
    match item["type"]:
        case "tuple_type":
            return "Input should be a list"
        case "model_type":
            return "Input should be a mapping of keys to values"
        case "path_type":
            return "Input should be a path"
        case _:
            return item["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]


def _has_mistakes_inside(location: Location, found: Iterable[Location]) -> bool:
    """Whether a part is only wrong because a part of it is, which is reported by itself."""
    depth = len(location)
    return any(len(other) > depth and other[:depth] == location for other in found)


def _unknown_key(key: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    remedy = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
    return f"unknown key `{key}`; {remedy}"


def _keys_at(schema: type[BaseModel], location: Location) -> set[str]:
    """The keys that the schema allows in the mapping at `location`."""
    found = {schema}
    for part in location:
        if isinstance(part, int):
            continue
        found = {
            inner
            for outer in found
            if part in outer.model_fields
            for inner in _models_in(outer.model_fields[part].annotation)
        }
    return {key for model in found for key in model.model_fields}


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    """Every model class mentioned in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for part in get_args(annotation) for model in _models_in(part)}
