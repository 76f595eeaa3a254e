"""The journal's SQLite file: how it is laid out, opened and read, and what can go wrong."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charter.errors import RunError

_BUSY_S = 60.0
_VERSION = 1
# Large values come last, so that sums over the small columns skip their overflow pages.
_SCHEMA = f"""
BEGIN;
CREATE TABLE calls (
    key TEXT PRIMARY KEY, stage TEXT NOT NULL, tokens INTEGER NOT NULL, times INTEGER NOT NULL,
    answer TEXT NOT NULL
);
CREATE TABLE records (
    stage TEXT NOT NULL, context TEXT NOT NULL, id TEXT NOT NULL, times INTEGER NOT NULL,
    result TEXT NOT NULL, PRIMARY KEY (stage, context, id)
);
PRAGMA user_version = {_VERSION};
COMMIT;
"""

# Where shared memory or locks are not to be trusted across hosts; every `fuse.*` is one of them.
_NETWORK_FILESYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"}
    | {"smb3", "smbfs", "wekafs"}
)


def journal_mode(path: Path, *, mounts: str) -> str:
    """`WAL`, or `DELETE` where `path` lies on a network filesystem.

    Write-ahead logging shares memory between connections, which network filesystems do not keep
    coherent.

    Args:
        path: An absolute path without links.
        mounts: The mount table, as `/proc/mounts` has it.
    """
    deepest, kind = -1, ""
    for line in mounts.splitlines():
        _, mounted_at, filesystem, *_ = line.split(" ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), mounted_at))
        # A later mount hides an earlier one at the same place.
        if path.is_relative_to(point) and len(point.parts) >= deepest:
            deepest, kind = len(point.parts), filesystem
    is_network = kind in _NETWORK_FILESYSTEMS or kind.startswith("fuse.")
    return "DELETE" if is_network else "WAL"


def open_own(path: Path) -> sqlite3.Connection:
    """A connection to write through; the file is begun if there is none."""
    table = Path("/proc/mounts")
    mounts = table.read_text("utf-8", "surrogateescape") if table.exists() else ""
    connection = connect(path)
    try:
        mode = journal_mode(path.resolve(), mounts=mounts)
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("PRAGMA synchronous = FULL")
        if _version(connection) == 0:
            connection.executescript(_SCHEMA)
        _check_version(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise explained(error, path) from error
    return connection


def open_finished(path: Path) -> sqlite3.Connection:
    """A connection to another run's journal, to read only."""
    if not path.is_file():
        raise RunError(
            f"nothing to reuse: no journal at {path}. Name a run directory that has one."
        )
    # Even reading a write-ahead log needs files beside it. Where they cannot be made, as in
    # somebody else's run, a journal that was closed cleanly is read as a file that stays the same.
    is_fixed = (
        not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists()
    )
    connection = connect(path, query="?immutable=1" if is_fixed else "?mode=ro")
    try:
        _check_version(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise explained(error, path) from error
    return connection


def connect(path: Path, *, query: str = "") -> sqlite3.Connection:
    """A connection that any thread may use; `query` holds options of SQLite's file URI."""
    try:
        # SQLite serialises threads itself; each connection is still written by one of them only.
        return sqlite3.connect(
            path.resolve().as_uri() + query, uri=True, timeout=_BUSY_S, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise explained(error, path) from error


def fetch(connection: sqlite3.Connection, query: str, *, values: Sequence[str], path: Path) -> Any:
    """The first row that a query finds, or None; `path` names the journal in errors."""
    try:
        return connection.execute(query, values).fetchone()
    except sqlite3.Error as error:
        raise explained(error, path) from error


def explained(error: BaseException, path: Path) -> RunError:
    """What the user can do about an error of the journal."""
    name: str = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        remedy = "Make room on the disk, or mend it, and run again: what was committed is kept."
    elif name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        remedy = (
            f"The file is damaged. Move it away, with {path.name}-wal and {path.name}-shm beside "
            "it, and run again: its calls and records will be made anew."
        )
    elif isinstance(error, sqlite3.Error):
        remedy = "Check that the directory exists, can be written, and is used by nobody else."
    else:
        remedy = "Run again, what was committed is kept; if that comes back, report it."
    return RunError(f"journal {path}: {str(error) or type(error).__name__}. {remedy}")


def _version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA user_version").fetchone()[0]


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    if (version := _version(connection)) != _VERSION:
        connection.close()
        raise RunError(
            f"journal {path} has format {version}, this charter reads format {_VERSION}. Use the "
            "charter that began the run, or begin another: --run NEW."
        )
