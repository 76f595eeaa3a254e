"""Which calls get a slot, and what each step of the model reads.

Numbers do not depend on any of this: whatever is decided here, a call gets the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from charter.models.calls import Call, Weighing, Writing, settle
from charter.models.network import Network
from charter.models.rows import Reading, Rows
from charter.models.sampling import draw, uniforms
from charter.models.slots import BLOCK, Extents, Prefix, Slot, Slots
from charter.models.waiting import Waiting

_CPU_ROWS, _GPU_ROWS = 1024, 8192
"""Tokens that one step reads, about."""
_WORTH_COPYING = 16
"""Tokens in common from which on keys are copied from another slot rather than computed."""
_WORTH_WAITING = 32
"""Tokens that another call is about to read, from which on waiting for it pays."""
_POPULAR = 12
"""Calls that begin with the same tokens, from which on these are stored once for all."""
_MOST_PREFIXES = 4
_SHARE_OF_MEMORY = 0.6
"""Of what is free at the start, for keys and values; steps need room beside them."""
_EXAMINED = 64
"""Waiting calls that are looked at in one step beside those that find a slot."""


@dataclass(frozen=True)
class _Origin:
    """Where a new call's first keys come from."""

    known: int
    slot: Slot | None = None
    prefix: Prefix | None = None


@dataclass(frozen=True)
class _Awaited:
    """How far a slot had come when a call was told to wait for its keys."""

    slot: Slot
    call: Call | None
    computed: int

    @classmethod
    def of(cls, slot: Slot) -> _Awaited:
        return cls(slot, slot.call, slot.computed)


class Scheduler:
    """Calls that wait, and calls in slots; `step` brings all of them on."""

    def __init__(self, network: Network, *, capacity: int, rows: int | None = None) -> None:
        """`capacity` is the number of slots, `rows` how many tokens a step reads, about."""
        self._network = network
        self._most_bytes = _SHARE_OF_MEMORY * network.free_bytes()
        self._waiting = Waiting()
        self._begin(capacity)
        self._now = 0
        on_cpu = network.device.type == "cpu"
        usual = max(_CPU_ROWS if on_cpu else _GPU_ROWS, 2 * capacity)
        self._rows = usual if rows is None else rows
        self.rows_read = 0
        """Tokens that the model has read so far."""

    @property
    def capacity(self) -> int:
        """How many slots there are."""
        return self._slots.count

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._waiting) or any(slot.call for slot in self._slots.slots)

    def add(self, call: Call) -> None:
        """One more call, to be begun as soon as there is room."""
        self._waiting.add(call)

    def restart(self, *, capacity: int) -> None:
        """Forgets all keys and values; calls that were begun wait again, with what they have.

        With fewer slots than before, a step reads half as many tokens too: both take memory.
        """
        if capacity < self.capacity:
            self._rows = max(2 * capacity, self._rows // 2)
        begun = [slot.call for slot in self._slots.slots if slot.call]
        waiting = [*begun, *self._waiting]
        self._network.weights_changed()
        self._begin(capacity)
        self._waiting = Waiting()
        for call in sorted(waiting, key=lambda call: call.number):
            self.add(call)

    def drop_all(self) -> None:
        """Forgets all calls, and all keys and values."""
        self._waiting = Waiting()
        self._begin(self._slots.count)

    def _begin(self, capacity: int) -> None:
        """No keys and values are known."""
        self._slots = Slots(capacity, self._most_bytes)
        self._prefixes: list[Prefix] = []
        self._awaited: WeakKeyDictionary[Call, _Awaited] = WeakKeyDictionary()

    def step(self) -> int:
        """Admits what there is room for, and reads the next tokens of every call in a slot.

        Gives how many slots fell empty that no waiting call will take.
        """
        self._now += 1
        for slot in self._slots.slots:
            if slot.call and slot.call.result.cancelled():
                self._leave(slot)
        self._admit()
        active = [slot for slot in self._slots.slots if slot.call]
        decoded = [slot for slot in active if slot.pending == slot.keep == 1]
        chunks = list(self._chunks(active, room=self._rows - len(decoded)))
        if not decoded and not chunks:
            return 0
        self._read(Reading(decoded, chunks))
        emptied = sum(slot.call is None for slot in active)
        return max(0, emptied - len(self._waiting))

    def _chunks(self, active: list[Slot], *, room: int) -> Iterator[tuple[Slot, int]]:
        """Slots with more to read than one token, the oldest call first, and how much of it."""
        reading = [slot for slot in active if slot.pending > 1 or slot.keep > 1]
        for slot in sorted(reading, key=_arrival):
            if room <= 0:
                return
            count = slot.pending
            if count > max(room, slot.keep):  # what is wanted of the last positions stays together
                count = min(room, count - slot.keep)
            room -= count
            yield slot, count

    def _read(self, reading: Reading) -> None:
        """Runs the model, and gives each call what it made of it."""
        # The first step makes the slots' storage, which passes side by side would make twice.
        passes = self._network.passes if self._slots.layers else 1
        shares = [
            Rows.of(share, self._slots, self._network.device)
            for share in reading.shared_out(passes)
        ]
        for rows in shares:
            rows.fill_up(self._network.smallest_step, multiple=self._network.multiple)
            self.rows_read += rows.count
        logits = self._network.run_all([rows.laid_out() for rows in shares])
        for slot, count in reading:
            slot.computed += count
            slot.used = self._now
        whole = torch.cat(logits) if len(logits) > 1 else logits[0]
        self._receive([slot for rows in shares for slot in rows.owners], whole)

    def _receive(self, owners: list[Slot], logits: Tensor) -> None:
        """Gives each call the logits of its rows."""
        writers: list[tuple[int, Slot, Writing]] = []
        row = 0
        for slot in owners:
            match slot.call:
                case Writing() as writing:
                    writers.append((row, slot, writing))
                    row += 1
                case Weighing() as weighing:
                    settle(weighing.result, weighing.weigh(logits[row : row + weighing.keep]))
                    row += weighing.keep
                    self._leave(slot)
                case None:
                    raise AssertionError(slot)
        if writers:
            self._write(writers, logits)

    def _write(self, writers: list[tuple[int, Slot, Writing]], logits: Tensor) -> None:
        if len(writers) < len(logits):
            rows = torch.tensor([row for row, _, _ in writers], device=logits.device)
            logits = logits.index_select(0, rows)
        drawn = draw(
            logits,
            uniforms=uniforms(
                [writing.seed for _, _, writing in writers],
                [len(writing.token_ids) for _, _, writing in writers],
            ),
            temperatures=[writing.sampling.temperature for _, _, writing in writers],
            top_ps=[writing.sampling.top_p for _, _, writing in writers],
            top_ks=[writing.sampling.top_k for _, _, writing in writers],
        )
        going_on, last_ids = list[Slot](), list[int]()
        for (_, slot, writing), id_, logprob, near in zip(
            writers, drawn.ids, drawn.logprobs, drawn.near, strict=True
        ):
            writing.take(id_, logprob, near=near)
            if writing.finished:
                settle(writing.result, None)
                self._leave(slot)
            else:
                going_on.append(slot)
                last_ids.append(id_)
        self._slots.append(going_on, last_ids)

    def _leave(self, slot: Slot) -> None:
        """The slot's call is over; what was computed stays, for a call that goes on from there."""
        slot.call = None
        slot.length = slot.computed

    def _admit(self) -> None:
        free = [slot for slot in self._slots.slots if not slot.call]
        extents = self._slots.extents()
        for call, ids in list(islice(self._waiting.items(), _EXAMINED + len(free))):
            if call.result.cancelled():
                self._waiting.remove(call)
            elif not free:
                return
            elif self._waits_still(call):
                continue
            elif origin := self._origin(call, ids, extents):
                slot = self._chosen(origin, free)
                self._seat(call, ids, slot, origin)
                self._waiting.remove(call)
                free.remove(slot)
                extents = self._slots.extents()

    def _waits_still(self, call: Call) -> bool:
        """Whether the slot whose keys it waits for has come no further since it was looked at."""
        awaited = self._awaited.get(call)
        return awaited is not None and awaited == _Awaited.of(awaited.slot)

    def _origin(self, call: Call, ids: np.ndarray, extents: Extents) -> _Origin | None:
        """The most that is known of a call's tokens; None: wait for another call to read them."""
        common = np.minimum(self._slots.common(ids), len(ids) - call.keep)
        known = np.minimum(common, extents.computed)
        known[known < extents.start] = 0
        best = int(known.argmax())
        stored = self._best_prefix(ids, most=len(ids) - call.keep)
        lead = max(int(known[best]), len(stored) if stored else 0)
        coming = np.minimum(common, extents.coming)
        longest = int(coming.argmax())
        if int(coming[longest]) - lead >= _WORTH_WAITING:
            self._awaited[call] = _Awaited.of(self._slots.slots[longest])
            return None
        source = self._slots.slots[best]
        shared = self._popular(ids, common, most=int(known[best]))
        if shared > (len(stored) if stored else 0) and shared >= source.start:
            stored = self._store(source, length=shared)
            if stored:
                self._gather(stored, common)
        if stored and int(known[best]) - len(stored) < _WORTH_COPYING:
            return _Origin(len(stored), prefix=stored)
        if int(known[best]) < _WORTH_COPYING:
            return _Origin(0)
        return _Origin(int(known[best]), slot=source)

    def _best_prefix(self, ids: np.ndarray, *, most: int) -> Prefix | None:
        fitting = [
            prefix
            for prefix in self._prefixes
            if len(prefix) <= most and np.array_equal(prefix.ids, ids[: len(prefix)])
        ]
        return max(fitting, key=len, default=None)

    def _popular(self, ids: np.ndarray, common: np.ndarray, *, most: int) -> int:
        """How many of a call's first tokens many calls have, in whole blocks."""
        active = [slot for slot in self._slots.slots if slot.call]
        if most < BLOCK or len(self._waiting) + len(active) < _POPULAR:
            return 0
        begun = common[[slot.index for slot in active]]
        counts = np.sort(np.concatenate([begun, self._waiting.common(ids[:most])]))
        return min(int(counts[-_POPULAR]), most) // BLOCK * BLOCK

    def _store(self, source: Slot, *, length: int) -> Prefix | None:
        """A new prefix, in the place of the one that was not used for longest."""
        used = [slot.prefix for slot in self._slots.slots if slot.prefix]
        if len(self._prefixes) >= _MOST_PREFIXES:
            idle = [one for one in self._prefixes if one not in used]
            if not idle:
                return None
            self._prefixes.remove(min(idle, key=lambda one: one.used))
        prefix = self._slots.prefix_of(source, length=length)
        self._prefixes.append(prefix)
        return prefix

    def _gather(self, prefix: Prefix, common: np.ndarray) -> None:
        """Slots that begin with a new prefix read it together with those to come."""
        for slot in self._slots.slots:
            if slot.start < len(prefix) <= min(common[slot.index], slot.computed):
                self._slots.rebase(slot, prefix)

    def _chosen(self, origin: _Origin, free: list[Slot]) -> Slot:
        """The slot to use: the one with the keys, unless most of what it has would be lost."""
        source = origin.slot
        if source in free and 2 * origin.known >= source.computed:
            return source
        return min(free, key=lambda slot: (slot.used, slot.index))

    def _seat(self, call: Call, ids: np.ndarray, slot: Slot, origin: _Origin) -> None:
        if origin.slot is None:
            slot.prefix = origin.prefix
        elif origin.slot is not slot:
            self._slots.copy(origin.slot, slot, length=origin.known)
        if slot.prefix:
            slot.prefix.used = self._now
        slot.call, slot.used = call, self._now
        call.reused = origin.known
        self._slots.put(slot, ids, known=origin.known)


def _arrival(slot: Slot) -> int:
    return slot.call.number if slot.call else -1
