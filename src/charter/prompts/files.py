"""Files of prompts, or of pairs of answers, as one stream with an account of every row."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from charter.config import PromptSource
from charter.errors import Problem, PromptError
from charter.prompts.row import AnswerPair, messages_hash, pair_of, prompt_of, reason_for
from charter.records import Prompt, Record, with_system_turn

MAX_LINE_BYTES = 16 * 2**20
"""Longer lines are quarantined unread: a file without line ends must not fill the memory."""

_EXAMPLES = 3
"""Bad rows that an error about all prompts quotes."""

_CONVERT = "Convert it to JSONL: python -c "
_CONVERT_CSV = (
    _CONVERT + '"import csv, json, sys; '
    '[print(json.dumps(row)) for row in csv.DictReader(sys.stdin)]" < in.csv > out.jsonl'
)
_CONVERT_PARQUET = (
    _CONVERT + "\"import pandas; pandas.read_parquet('in.parquet')"
    ".to_json('out.jsonl', orient='records', lines=True)\""
)
_CONVERT_ARRAY = (
    _CONVERT + '"import json, sys; '
    '[print(json.dumps(row)) for row in json.load(sys.stdin)]" < in.json > out.jsonl'
)


class Quarantined(Record):
    """A row that cannot be used, where it stands, and why."""

    path: Path
    line: int
    reason: str

    @property
    def problem(self) -> Problem:
        """The same, as `charter check` reports it."""
        return Problem(self.path, self.reason, self.line)


class Duplicate(Record):
    """A row with the very messages of an earlier prompt."""

    path: Path
    line: int
    first_id: str
    """The prompt that has these messages already."""


class PromptCounts(Record):
    """What the rows of some sources came to."""

    valid: int = 0
    quarantined: int = 0
    duplicates: int = 0


def read_prompts(sources: Iterable[PromptSource], *, system: str | None = None) -> Iterator[Prompt]:
    """The usable prompts, in the order of the files; see `read_rows`."""
    return (row for row in read_rows(sources, system=system) if isinstance(row, Prompt))


def read_rows(
    sources: Iterable[PromptSource], *, system: str | None = None
) -> Iterator[Prompt | Quarantined | Duplicate]:
    """What each row of the files came to, in order; blank lines are no rows.

    Ids are the rows' own, or a hash of the row's messages. An id that a different prompt has
    already is quarantined: two prompts under one id would share every random draw and every stored
    result.

    Args:
        sources: The files.
        system: `prompts.system`: a system turn for prompts that have none. It renames no prompt,
            so that another one reshuffles no random draw.

    Raises:
        PromptError: A file is missing, or is not JSONL.
    """
    known = _Known()
    for source in sources:
        if obstacle := _obstacle(source.path):
            raise PromptError(f"{source.path}: {obstacle}")
        valid = 0
        for line, raw in _lines(source.path):
            row = _row(raw, source=source, system=system, line=line)
            if isinstance(row, Prompt):
                row = _if_new(row, known=known, path=source.path, line=line)
            yield row
            valid += isinstance(row, Prompt)
            if valid == source.limit:
                break


def read_pairs(path: Path) -> Iterator[AnswerPair | Quarantined]:
    """What each row of a file of preferences came to, in order; blank lines are no rows.

    Raises:
        PromptError: The file is missing, or is not JSONL.
    """
    if obstacle := _obstacle(path, setting="compare.human"):
        raise PromptError(f"{path}: {obstacle}")
    source = PromptSource(path=path)
    for line, raw in _lines(path):
        try:
            yield pair_of(_of_bearable_length(raw), source=source)
        except ValueError as error:
            yield Quarantined(path=path, line=line, reason=reason_for(error))


def usable_pairs(path: Path, *, on_bad: Callable[[Quarantined], None]) -> Iterator[AnswerPair]:
    """The usable rows of a file of preferences, in order; `on_bad` hears of each bad one.

    Raises:
        PromptError: The file is missing or not JSONL, or, after its last row, none was usable.
    """
    usable, bad = 0, 0
    examples: list[Problem] = []
    for row in read_pairs(path):
        if isinstance(row, Quarantined):
            on_bad(row)
            bad += 1
            examples = [*examples, row.problem][:_EXAMPLES]
            continue
        usable += 1
        yield row
    if not usable:
        raise PromptError("\n".join([f"{path}: {_none_paired(bad)}", *map(str, examples)]))


def check_pairs(path: Path) -> list[Problem]:
    """Everything wrong with a file of preferences and its rows."""
    if obstacle := _obstacle(path, setting="compare.human"):
        return [Problem(path, obstacle)]
    usable = 0
    problems: list[Problem] = []
    for row in read_pairs(path):
        if isinstance(row, Quarantined):
            problems.append(row.problem)
        else:
            usable += 1
    return problems if usable else [Problem(path, _none_paired(len(problems))), *problems]


def count_prompts(
    sources: Sequence[PromptSource],
    *,
    on_bad: Callable[[Quarantined], None],
    system: str | None = None,
) -> PromptCounts:
    """How many rows are usable, quarantined and duplicates; `on_bad` hears of each bad one.

    Raises:
        PromptError: A file is missing or not JSONL, or no row is usable.
    """
    counts, examples = PromptCounts(), list[Problem]()
    for row in read_rows(sources, system=system):
        counts = _counted(counts, row)
        if isinstance(row, Quarantined):
            on_bad(row)
            examples = [*examples, row.problem][:_EXAMPLES]
    if not counts.valid:
        raise PromptError("\n".join([_none_usable(sources, counts), *map(str, examples)]))
    return counts


def check_prompts(
    sources: Sequence[PromptSource], *, system: str | None = None
) -> tuple[PromptCounts, list[Problem]]:
    """The counts, and everything wrong with the files and their rows, all files read."""
    obstacles = [(source, _obstacle(source.path)) for source in sources]
    problems = [Problem(source.path, message) for source, message in obstacles if message]
    counts = PromptCounts()
    usable = [source for source, message in obstacles if not message]
    for row in read_rows(usable, system=system):
        counts = _counted(counts, row)
        if isinstance(row, Quarantined):
            problems.append(row.problem)
    if not counts.valid and not problems:
        problems = [Problem(source.path, _none_usable(sources, counts)) for source in sources[:1]]
    return counts, problems


def _counted(counts: PromptCounts, row: Prompt | Quarantined | Duplicate) -> PromptCounts:
    match row:
        case Prompt():
            return counts.model_copy(update={"valid": counts.valid + 1})
        case Quarantined():
            return counts.model_copy(update={"quarantined": counts.quarantined + 1})
        case Duplicate():
            return counts.model_copy(update={"duplicates": counts.duplicates + 1})


def _none_usable(sources: Sequence[PromptSource], counts: PromptCounts) -> str:
    files = ", ".join(str(source.path) for source in sources)
    return (
        f"no usable prompt in {files} ({counts.quarantined} rows quarantined). "
        'Each line is a prompt: {"prompt": "What the user asks"}, or `messages`, or a transcript.'
    )


def _none_paired(quarantined: int) -> str:
    return (
        f"no usable pair of answers ({quarantined} rows quarantined). Each line holds two whole "
        "dialogues that differ in their last answer, `chosen` and `rejected`: mend the rows, or "
        "take `compare.human` out."
    )


@dataclass
class _Known:
    """The prompts read so far: what tells a duplicate, or an id taken twice."""

    ids: dict[str, str] = field(default_factory=dict[str, str])
    """By hash of the messages."""
    places: dict[str, tuple[Path, int]] = field(default_factory=dict[str, tuple[Path, int]])
    """By id."""


def _if_new(
    prompt: Prompt, *, known: _Known, path: Path, line: int
) -> Prompt | Quarantined | Duplicate:
    """The prompt, noted as known, unless its messages or its id are known already."""
    key = messages_hash(prompt)
    if key in known.ids:
        return Duplicate(path=path, line=line, first_id=known.ids[key])
    if prompt.id in known.places:
        first_path, first_line = known.places[prompt.id]
        reason = (
            f"id {prompt.id!r} belongs to a different prompt, at {first_path}:{first_line}. "
            "Give each prompt its own id, or none."
        )
        return Quarantined(path=path, line=line, reason=reason)
    known.ids[key] = prompt.id
    known.places[prompt.id] = (path, line)
    return prompt


def _obstacle(path: Path, *, setting: str = "prompts") -> str | None:
    """Why the file as a whole cannot be read as JSONL, and what to do; None where it can."""
    if not path.exists():
        return (
            f"no such file. Correct the path under `{setting}`; `charter init` writes an example."
        )
    if not path.is_file():
        return f"not a regular file. Name a JSONL file under `{setting}`."
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        return f"cannot be read: {error.strerror}. Check the permissions."
    if path.suffix.lower() in {".csv", ".tsv"}:
        return f"CSV is not read yet. {_CONVERT_CSV}"
    if head.startswith(b"PAR1"):
        return f"Parquet is not read yet. {_CONVERT_PARQUET}"
    if head.startswith(b"\x1f\x8b"):
        return "the file is compressed. Unpack it with gunzip."
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "the file is UTF-16. Convert it to UTF-8: iconv -f UTF-16 -t UTF-8 in > out"
    if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        return f"the file is one JSON array, not a row a line. {_CONVERT_ARRAY}"
    return None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line that is not blank, with its number from 1; an over-long one is cut off.

    Lines are split as bytes, since text may hold other line separators (U+2028).
    """
    with path.open("rb") as file:
        for number in itertools.count(1):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            rest = line
            while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE_BYTES + 1)
            content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if content.strip():
                yield number, content


def _row(
    raw: bytes, *, source: PromptSource, system: str | None, line: int
) -> Prompt | Quarantined:
    try:
        prompt = prompt_of(_of_bearable_length(raw), source=source)
    except ValueError as error:
        return Quarantined(path=source.path, line=line, reason=reason_for(error))
    return prompt.model_copy(update={"messages": with_system_turn(prompt.messages, system)})


def _of_bearable_length(raw: bytes) -> bytes:
    if len(raw) > MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES // 2**20} MiB")
    return raw
