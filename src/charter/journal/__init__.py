"""The journal: what is finished is never made again.

One SQLite file per run holds *calls* of frozen models and *records*, a stage's results. A kill
costs the calls in flight and at most one group of rows.
"""

from charter.journal.calls import JournaledModel, call_key
from charter.journal.store import Journal, Records

__all__ = ["Journal", "JournaledModel", "Records", "call_key"]
