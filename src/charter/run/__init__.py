"""The run directory: where everything that one run makes lies, and what it was made from."""

from charter.run.directory import RunDirectory, journal_path
from charter.run.manifest import Manifest, Tally
from charter.run.reading import read_jsonl
from charter.run.settings import FREE_SETTINGS, settings
from charter.run.writing import file_hash, jsonl_writer, sync, write_atomically, write_jsonl

__all__ = [
    "FREE_SETTINGS",
    "Manifest",
    "RunDirectory",
    "Tally",
    "file_hash",
    "journal_path",
    "jsonl_writer",
    "read_jsonl",
    "settings",
    "sync",
    "write_atomically",
    "write_jsonl",
]
