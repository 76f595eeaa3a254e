from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest

from charter.errors import RunError
from charter.records import Message, user
from charter.run import file_hash, write_atomically, write_jsonl


def test_a_file_is_written_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_atomically(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    write_atomically(path, b"other")
    assert path.read_bytes() == b"other"
    assert list(path.parent.iterdir()) == [path]


def test_rows_are_written_one_a_line_and_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert write_jsonl(path, [user("one\nline"), user("é\u2028")]) == 2
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line)["content"] for line in lines] == ["one\nline", "é\u2028"]


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_jsonl(tmp_path / name, (user(str(i)) for i in range(100)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_rows_that_break_off_leave_the_old_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [user("old")])
    before = path.read_bytes()

    def rows() -> Iterator[Message]:
        yield user("new")
        raise ValueError("broke off")

    with pytest.raises(ValueError, match="broke off"):
        write_jsonl(path, rows())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match=r"cannot write .*a\.txt: .*Make room or mend permissions"):
        write_atomically(tmp_path / "file" / "a.txt", "x")


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        with pytest.raises(RunError, match="cannot write"):
            write_atomically(path, "x" * 20_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from charter.records import user
from charter.run import write_jsonl

def rows():
    for i in range(20_000):
        if i == 10_000:
            os.kill(os.getpid(), signal.SIGKILL)
        yield user(str(i))

write_jsonl(Path(sys.argv[1]), rows())
"""


def test_kill_9_leaves_the_old_file_and_the_next_attempt_cleans_up(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [user("old")])
    before = path.read_bytes()
    subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, path], check=False)
    assert path.read_bytes() == before
    write_jsonl(path, [user("new")])
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_known_by_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
