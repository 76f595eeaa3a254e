from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charter.errors import RunError
from charter.journal import Journal
from charter.journal.store import GROUP_ROWS, GROUP_S


def rows_on_disk(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT count(*) FROM calls").fetchone()[0]
    finally:
        connection.close()


def test_what_is_kept_is_read_at_once_and_after_reopening(tmp_path):
    path = tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        journal.keep_call("k", '"an answer"')
        journal.records("revise", context="c").keep("p1", "{}")
        assert journal.call("k") == '"an answer"'
        assert journal.records("revise", context="c").get("p1") == "{}"
    with Journal(path) as journal:
        assert journal.call("k") == '"an answer"'
        assert journal.records("revise", context="c").get("p1") == "{}"
        assert journal.call("other") is None


def test_records_belong_to_their_stage_and_context(tmp_path):
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.records("revise", context="a").keep("p1", "1")
        assert journal.records("revise", context="b").get("p1") is None
        assert journal.records("evaluate", context="a").get("p1") is None


@settings(max_examples=20, deadline=None)
@given(rows=st.dictionaries(st.text(), st.text(), max_size=5))
def test_any_text_survives_the_disk(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("journal") / "journal.sqlite"
    with Journal(path) as journal:
        for key, value in rows.items():
            journal.keep_call(key, value)
    with Journal(path) as journal:
        assert {key: journal.call(key) for key in rows} == rows


def test_text_that_is_no_unicode_fails_where_it_is_kept(tmp_path):
    with Journal(tmp_path / "journal.sqlite") as journal:
        with pytest.raises(UnicodeEncodeError):
            journal.keep_call("k", "\ud800")
        journal.keep_call("k", "fine")
        journal.flush()


def test_a_full_group_is_committed_without_a_flush(tmp_path):
    path = tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        for i in range(GROUP_ROWS):
            journal.keep_call(str(i), "x")
        until = time.monotonic() + 5
        while rows_on_disk(path) < GROUP_ROWS and time.monotonic() < until:
            time.sleep(0.005)
        assert rows_on_disk(path) == GROUP_ROWS


def test_a_lonely_row_waits_for_others_but_not_for_long(tmp_path):
    path = tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        journal.keep_call("k", "x")
        kept = time.monotonic()
        while rows_on_disk(path) == 0 and time.monotonic() < kept + 5:
            time.sleep(0.005)
        assert time.monotonic() - kept > GROUP_S / 2
        assert rows_on_disk(path) == 1


def test_a_flush_commits_at_once(tmp_path):
    path = tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        journal.keep_call("k", "x")
        journal.flush()
        assert rows_on_disk(path) == 1


def test_threads_may_keep_and_read_together(tmp_path):
    with Journal(tmp_path / "journal.sqlite") as journal:
        missing: list[str] = []

        def work(name: str) -> None:
            for i in range(200):
                journal.keep_call(f"{name}{i}", name)
                if journal.call(f"{name}{i}") != name:
                    missing.append(f"{name}{i}")

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert missing == []
        assert journal.repeated() == (0, 0)


def test_a_call_made_twice_is_counted_and_keeps_its_first_answer(tmp_path):
    path = tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        journal.keep_call("k", "first")
        journal.flush()
        assert journal.repeated() == (0, 0)
        journal.keep_call("k", "second")
        journal.records("revise", context="c").keep("p", "1")
        journal.records("revise", context="c").keep("p", "1")
        assert journal.repeated() == (1, 1)
        assert journal.call("k") == "first"


def test_a_stage_knows_what_it_spent_in_all_sessions(tmp_path):
    path = tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        journal.keep_call("a", "x", stage="revise", tokens=10)
        journal.keep_call("b", "x", stage="evaluate", tokens=5)
    with Journal(path) as journal:
        journal.keep_call("c", "x", stage="revise", tokens=7)
        assert journal.spent("revise") == (2, 17)
        assert journal.records("evaluate", context="").spent() == (1, 5)
        assert journal.spent("finetune") == (0, 0)


def test_reuse_takes_over_what_another_run_has_free_of_charge(tmp_path):
    old, new = tmp_path / "old.sqlite", tmp_path / "new.sqlite"
    with Journal(old) as journal:
        journal.keep_call("k", "old", stage="revise", tokens=9)
        journal.keep_call("own", "old")
        journal.records("revise", context="c").keep("p", "old")
    with Journal(new) as journal:
        journal.keep_call("own", "new")
    with Journal(new, reuse=[old]) as journal:
        assert journal.call("own") == "new"
        assert journal.call("k") == "old"
        assert journal.records("revise", context="c").get("p") == "old"
        assert journal.spent("revise") == (0, 0)
    old.unlink()
    with Journal(new) as journal:
        assert journal.call("k") == "old"
        assert journal.records("revise", context="c").get("p") == "old"


def test_reuse_leaves_the_other_journal_as_it_is(tmp_path):
    old = tmp_path / "old.sqlite"
    with Journal(old) as journal:
        journal.keep_call("k", "x")
    before = old.read_bytes()
    with Journal(tmp_path / "new.sqlite", reuse=[old]) as journal:
        assert journal.call("k") == "x"
        journal.keep_call("other", "y")
    assert old.read_bytes() == before


def test_reusing_a_run_without_a_journal_says_so(tmp_path):
    with pytest.raises(RunError, match=r"no journal at .*old\.sqlite\. Name a run directory"):
        Journal(tmp_path / "new.sqlite", reuse=[tmp_path / "old.sqlite"])


def test_a_damaged_journal_is_an_error_that_says_what_to_do(tmp_path):
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(RunError, match=r"not a database.*Move it away, with journal\.sqlite-wal"):
        Journal(path)


def test_a_journal_of_another_format_is_refused(tmp_path):
    path = tmp_path / "journal.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(RunError, match="has format 99"):
        Journal(path)


def test_a_journal_in_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(RunError, match="Check that the directory exists"):
        Journal(tmp_path / "nowhere" / "journal.sqlite")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_writer_that_broke_down(tmp_path):
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    journal.keep_call("before", "x")
    journal.flush()
    journal.keep_call("k", "x", tokens=2**63)  # more than SQLite's integers hold
    for give_up in (journal.flush, lambda: journal.keep_call("after", "x"), journal.close):
        with pytest.raises(RunError, match=r"too large .*\. Run again, what was committed is kept"):
            give_up()
    journal.close()
    with Journal(path) as journal:
        assert (journal.call("before"), journal.call("k")) == ("x", None)


FILLS_THE_DISK = """
import resource, sys
from pathlib import Path
from charter.errors import RunError
from charter.journal import Journal

journal = Journal(Path(sys.argv[1]))
journal.keep_call("before", "x")
journal.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    for i in range(1000):
        journal.keep_call(str(i), "x" * 1000)
        journal.flush()
except RunError as error:
    print(error)
assert journal.call("before") == "x"
try:
    journal.close()
except RunError as error:
    print(error)
"""


def test_a_full_disk_is_an_error_and_costs_nothing_that_was_committed(tmp_path):
    path = tmp_path / "journal.sqlite"
    done = subprocess.run(
        [sys.executable, "-c", FILLS_THE_DISK, path], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("Make room on the disk") == 2
    with Journal(path) as journal:
        assert journal.call("before") == "x"
        journal.keep_call("after", "x")


KEEPS_UNTIL_KILLED = """
import sys
from pathlib import Path
from charter.journal import Journal

journal = Journal(Path(sys.argv[1]))
start = int(sys.argv[2])
for i in range(start, 10**9):
    journal.keep_call(f"k{i}", "x" * 300)
    if i % 50 == 0:
        journal.flush()
        print(i, flush=True)
"""


def test_kill_9_loses_nothing_that_was_committed(tmp_path):
    path = tmp_path / "journal.sqlite"
    committed = -1
    for reports in (1, 8, 30):
        process = subprocess.Popen(
            [sys.executable, "-c", KEEPS_UNTIL_KILLED, path, str(committed + 1)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        with process:
            for _ in range(reports):
                committed = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
            for line in process.stdout:
                committed = int(line)
        with Journal(path) as journal:
            assert all(journal.call(f"k{i}") for i in range(committed + 1))
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
