"""What the processes of a launcher tell each other: objects, by way of the CPU.

Every process must come to each of these calls, and in the same order. A process alone is spared
all of it. torch is imported late: what asks a script needs none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeVar, cast

from charter.launch.place import is_launched

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")

PATIENCE = timedelta(days=14)
"""How long a process waits for another: followers wait for all that the main one does alone.

Some of the libraries below count in milliseconds of 31 bits, which are 24 days.
"""
_NOTHING = object()


def from_main(make: Callable[[], T]) -> T:
    """What the main process makes; the others make nothing, wait for it, and get the same.

    So what writes files goes through here too, where another process is to read them next.
    """
    if not _is_shared():
        return make()
    from torch import distributed

    made = [make() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(made, src=0, group=_objects())
    return cast("T", made[0])


def share(items: Sequence[T]) -> Sequence[T]:
    """Those of the items that are this process's to work on; maybe none."""
    if not _is_shared():
        return items
    from torch import distributed

    return items[distributed.get_rank() :: distributed.get_world_size()]


def joined(mine: list[T]) -> list[T]:
    """What all processes made of their shares, an item of an item, in the order of the whole."""
    if not _is_shared():
        return mine
    from torch import distributed

    lists: list[list[T]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(  # pyright: ignore[reportUnknownMemberType]
        lists, mine, group=_objects()
    )
    rounds = zip_longest(*lists, fillvalue=_NOTHING)
    return [cast("T", item) for items in rounds for item in items if item is not _NOTHING]


def _is_shared() -> bool:
    """Whether there are others, and they have met."""
    if not is_launched():
        return False
    from torch import distributed

    return distributed.is_initialized()


@cache
def _objects() -> ProcessGroup | None:
    """Over which objects travel; None: the way that tensors do."""
    from torch import distributed

    if distributed.get_backend() == "gloo":
        return None
    # A GPU that waits for days in a collective computes all the while, and has a watchdog.
    group = distributed.new_group(  # pyright: ignore[reportUnknownMemberType]
        backend="gloo", timeout=PATIENCE
    )
    return cast("ProcessGroup", group)
