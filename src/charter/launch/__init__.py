"""The processes that a launcher has started on one run: their places, their word to each other.

One of them, the main one, does what a process alone would do. The others follow: they share in the
trainings, and wait while the main one works alone. They write no file and say nothing.
"""

from charter.launch.place import (
    free_memory,
    is_follower,
    is_launched,
    let_main_speak,
    own_device,
    refuse_shards,
    usual_dtype,
)
from charter.launch.talk import PATIENCE, from_main, joined, share

__all__ = [
    "PATIENCE",
    "free_memory",
    "from_main",
    "is_follower",
    "is_launched",
    "joined",
    "let_main_speak",
    "own_device",
    "refuse_shards",
    "share",
    "usual_dtype",
]
