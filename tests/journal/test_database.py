from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from charter.journal import Journal
from charter.journal.database import journal_mode

MOUNTS = """\
/dev/root / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/local xfs rw 0 0
//nas/share /mnt/my\\040share cifs rw 0 0
user@host:/ /mnt/ssh fuse.sshfs rw 0 0
/dev/sdc1 /mnt/ntfs fuseblk rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/tmp/run/journal.sqlite", "WAL"),
        ("/home/ann/journal.sqlite", "DELETE"),
        ("/homes/journal.sqlite", "WAL"),
        ("/home/local/journal.sqlite", "WAL"),
        ("/mnt/my share/journal.sqlite", "DELETE"),
        ("/mnt/ssh/journal.sqlite", "DELETE"),
        ("/mnt/ntfs/journal.sqlite", "WAL"),
    ],
)
def test_network_filesystems_get_a_rollback_journal(path, mode):
    assert journal_mode(Path(path), mounts=MOUNTS) == mode


def test_the_later_of_two_mounts_at_one_place_counts():
    mounts = "/dev/a /data ext4 rw 0 0\nserver:/x /data nfs rw 0 0\n"
    assert journal_mode(Path("/data/j"), mounts=mounts) == "DELETE"


def test_without_a_mount_table_a_filesystem_counts_as_local():
    assert journal_mode(Path("/data/j"), mounts="") == "WAL"


def test_a_journal_works_the_same_in_rollback_mode(tmp_path, monkeypatch):
    monkeypatch.setattr("charter.journal.database.journal_mode", lambda *_, **__: "DELETE")
    path = tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        for i in range(200):
            journal.keep_call(str(i), "x")
            assert journal.call(str(i)) == "x"
            assert journal.call("missing") is None
        journal.flush()
        assert not path.with_name("journal.sqlite-wal").exists()
        assert journal.call("7") == "x"


def test_a_journal_here_is_written_ahead_and_to_the_platter(tmp_path):
    path = tmp_path / "journal.sqlite"
    with Journal(path):
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["journal.sqlite"]
