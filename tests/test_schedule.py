from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charter.console import Silent
from charter.errors import (
    BackendError,
    FailureLimitError,
    JudgementError,
    OverlongError,
    RunError,
)
from charter.journal import Journal
from charter.run import Tally
from charter.schedule import run_records, stored


class Memory:
    """A store in memory that knows how often a record was kept."""

    def __init__(self, **values: str) -> None:
        self.values = dict(values)
        self.kept: list[str] = []
        self.flushes = 0

    def get(self, record_id: str) -> str | None:
        return self.values.get(record_id)

    def keep(self, record_id: str, value: str) -> None:
        self.values[record_id] = value
        self.kept.append(record_id)

    def flush(self) -> None:
        self.flushes += 1

    def spent(self) -> tuple[int, int]:
        return (7, 70)


class Heard:
    """Progress that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def start(self, task: str, *, total: int | None = None) -> None:
        self.heard.append(("start", task, total))

    def advance(self, steps: int = 1, *, note: str | None = None) -> None:
        self.heard += [note] * steps

    def finish(self, summary: str | None = None) -> None:
        self.heard.append(("finish", summary))

    def stop(self) -> None:
        self.heard.append("stop")


async def double(item: int) -> str:
    await asyncio.sleep(0)
    return str(2 * item)


def run(items, work=double, *, store=None, width=4, max_failed=1.0, total=None, progress=None):
    return asyncio.run(
        run_records(
            items,
            stage="revise",
            work=work,
            key=str,
            dump=str,
            store=Memory() if store is None else store,
            width=width,
            max_failed=max_failed,
            progress=progress or Silent(),
            total=total,
        )
    )


def failing_on(*bad: int):
    async def work(item: int) -> str:
        await asyncio.sleep(0)
        if item in bad:
            raise JudgementError(f"no verdict for {item}") if item % 2 else BackendError("gone")
        return str(2 * item)

    return work


def test_every_record_is_made_and_stored():
    store = Memory()
    tally = run(range(10), store=store)
    assert store.values == {str(i): str(2 * i) for i in range(10)}
    assert (tally.entered, tally.done, tally.failed, tally.filtered) == (10, 10, 0, 0)
    assert (tally.calls, tally.tokens) == (7, 70)
    assert store.flushes == 1


def test_a_rerun_makes_only_what_is_missing():
    store = Memory(**{"1": "2", "3": "6"})
    tally = run(range(5), store=store)
    assert sorted(store.kept) == ["0", "2", "4"]
    assert tally.done == 5


@settings(deadline=None)
@given(
    n=st.integers(0, 30),
    width=st.integers(1, 8),
    bad=st.sets(st.integers(0, 29)),
    finished=st.sets(st.integers(0, 29)),
)
def test_the_tally_balances_whatever_happens(n, width, bad, finished):
    store = Memory(**{str(i): "x" for i in finished})
    tally = run(range(n), failing_on(*bad), store=store, width=width)
    assert tally.entered == n == tally.done + tally.failed + tally.filtered
    assert tally.failed == len((bad - finished) & set(range(n))) == sum(tally.reasons.values())
    written = json.loads(tally.model_dump_json())
    assert written["in"] == written["done"] + written["failed"] + written["filtered"]


@settings(deadline=None)
@given(
    order=st.permutations(range(8)),
    width=st.integers(1, 10),
    naps=st.lists(st.integers(0, 5), min_size=8, max_size=8),
    bad=st.sets(st.integers(0, 7)),
)
def test_results_depend_neither_on_order_nor_on_width_nor_on_time(order, width, naps, bad):
    async def work(item: int) -> str:
        for _ in range(naps[item]):
            await asyncio.sleep(0)
        return await failing_on(*bad)(item)

    store = Memory()
    run(order, work, store=store, width=width)
    assert store.values == {str(i): str(2 * i) for i in range(8) if i not in bad}


def test_no_more_than_width_records_are_in_flight_and_none_is_read_early():
    in_flight, most, read_ahead, started = 0, 0, 0, 0

    def items() -> Iterator[int]:
        nonlocal read_ahead
        for i in range(40):
            read_ahead = max(read_ahead, i - started)
            yield i

    async def work(item: int) -> str:
        nonlocal in_flight, most, started
        in_flight += 1
        started += 1
        most = max(most, in_flight)
        for _ in range(item % 5):
            await asyncio.sleep(0)
        in_flight -= 1
        return "x"

    run(items(), work, width=6)
    assert most == 6
    assert read_ahead <= 1


def test_a_record_goes_on_before_a_new_one_begins():
    begun_and_not_ended: list[int] = []
    log: list[tuple[int, int]] = []

    async def work(item: int) -> str:
        for step in range(3):
            log.append((item, step))
            await asyncio.sleep(0)
        begun_and_not_ended.append(item)
        return "x"

    run(range(6), work, width=2)
    for first_new in range(2, 6):
        before = log[: log.index((first_new, 0))]
        assert sum(step == 2 for _, step in before) >= first_new - 1


def test_finished_records_do_not_starve_the_one_at_work():
    steps = 0

    async def work(item: int) -> str:
        nonlocal steps
        for _ in range(3):
            steps += 1
            await asyncio.sleep(0)
        return "x"

    def items() -> Iterator[int]:
        for i in range(100):
            if i == 50:
                assert steps == 3
            yield i

    run(items(), work, store=Memory(**{str(i): "x" for i in range(1, 100)}), width=2)


def test_failures_are_counted_by_reason_and_not_stored(caplog):
    store = Memory()
    tally = run(range(10), failing_on(1, 2, 3), store=store)
    assert tally.reasons == {"BackendError": 1, "JudgementError": 2}
    assert set(store.values) == {str(i) for i in range(10) if i not in (1, 2, 3)}
    assert "revise: record 3 failed: no verdict for 3" in caplog.text
    assert run(range(10), store=store).failed == 0


def test_too_many_failures_fail_the_stage_with_reasons_and_a_remedy():
    store = Memory()
    with pytest.raises(FailureLimitError) as caught:
        run(range(10), failing_on(1, 2, 3), store=store, max_failed=0.2)
    message = str(caught.value)
    assert "revise: 3 of 10 records failed (JudgementError 2, BackendError 1)" in message
    assert "more than revise.max_failed = 0.2 allows" in message
    assert "1: no verdict for 1" in message
    assert "--set revise.max_failed=" in message
    assert len(store.values) == 7
    assert store.flushes == 1


def test_what_does_not_fit_the_model_is_filtered_and_fails_nothing():
    async def work(item: int) -> str:
        if item < 3:
            raise OverlongError("2,000 tokens")
        return str(item)

    tally = run(range(10), work, max_failed=0.0)
    assert (tally.entered, tally.done, tally.failed, tally.filtered) == (10, 7, 0, 3)
    assert tally.reasons == {"overlong": 3}


def test_as_many_failures_as_allowed_do_not_fail_the_stage():
    assert run(range(10), failing_on(1, 2), max_failed=0.2).failed == 2


def test_a_hopeless_stage_is_given_up_early():
    begun: list[int] = []

    async def work(item: int) -> str:
        begun.append(item)
        raise BackendError("server gone")

    with pytest.raises(FailureLimitError, match="20 of 200 records failed"):
        run(range(200), work, max_failed=0.05, total=200)
    assert len(begun) < 30


def test_without_a_known_total_a_stage_is_judged_at_its_end():
    with pytest.raises(FailureLimitError, match="200 of 200 records failed"):
        run(range(200), failing_on(*range(200)), max_failed=0.05)


@pytest.mark.parametrize("error", [RunError("disk full"), ZeroDivisionError("a bug")])
def test_what_is_not_the_records_own_failure_ends_the_stage(error):
    store = Memory()
    cancelled: list[int] = []

    async def work(item: int) -> str:
        if item == 3:
            await asyncio.sleep(0.02)
            raise error
        if item > 3:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(item)
                raise
        return "x"

    with pytest.raises(type(error), match=str(error)):
        run(range(100), work, store=store, width=6)
    assert cancelled == [4, 5, 6, 7, 8]
    assert sorted(store.values) == ["0", "1", "2"]
    assert store.flushes == 1


def test_cancelling_ends_all_work_and_keeps_what_is_finished():
    store = Memory()
    ended: list[int] = []

    async def work(item: int) -> str:
        try:
            await asyncio.sleep(0 if item < 5 else 60)
        finally:
            ended.append(item)
        return "x"

    async def scenario() -> None:
        stage = asyncio.create_task(
            run_records(
                range(100),
                stage="revise",
                work=work,
                key=str,
                dump=str,
                store=store,
                width=3,
                max_failed=0.0,
                progress=Silent(),
            )
        )
        await asyncio.sleep(0.02)
        stage.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stage
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())
    assert sorted(store.values) == ["0", "1", "2", "3", "4"]
    assert sorted(ended) == list(range(8))
    assert store.flushes == 1


def test_an_error_of_the_items_ends_the_stage():
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("bad line")

    store = Memory()
    with pytest.raises(ValueError, match="bad line"):
        run(items(), store=store, width=1)
    assert store.values == {"1": "2"}


def test_progress_hears_of_every_record():
    progress = Heard()
    run(range(3), failing_on(1), store=Memory(**{"0": "x"}), width=1, total=3, progress=progress)
    assert progress.heard == [
        ("start", "revise", 3),
        None,
        "1 failed",
        "1 failed",
        ("finish", "2 done, 1 failed"),
        "stop",
    ]


@pytest.mark.parametrize("error", [RunError("disk full"), JudgementError("no verdict")])
def test_a_stage_that_fails_is_stopped_and_not_finished(error):
    async def work(item: int) -> str:
        raise error

    progress = Heard()
    with pytest.raises((RunError, FailureLimitError)):
        run(range(3), work, max_failed=0.0, progress=progress)
    assert progress.heard[-1] == "stop"
    assert ("finish", "0 done, 3 failed") not in progress.heard
    assert ("finish", "0 done") not in progress.heard


def test_stored_results_come_in_the_order_of_the_items():
    store = Memory(**{"3": "6", "1": "2", "2": "4"})
    assert list(stored([1, 2, 9, 3], key=str, store=store, load=int)) == [(1, 2), (2, 4), (3, 6)]


def test_filtering_moves_done_records_and_keeps_the_balance():
    tally = Tally(entered=10, done=8, failed=2, reasons={"BackendError": 2})
    filtered = tally.filtering({"too_long": 3})
    assert (filtered.done, filtered.filtered) == (5, 3)
    assert filtered.reasons == {"BackendError": 2, "too_long": 3}
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        tally.filtering({"empty": 9})


STAGE = """
import asyncio, sys
from pathlib import Path
from charter.console import Silent
from charter.journal import Journal, JournaledModel
from charter.records import Completion, Sampling, user
from charter.schedule import run_records


class Slow:
    fingerprint, capacity = "slow", 8

    async def generate(self, dialogue, *, sampling, seed):
        await asyncio.sleep(0.002 * (seed % 3))
        return Completion(text=f"{dialogue[-1].content}-{seed}", finish="stop")


async def main(journal):
    model = JournaledModel(Slow(), journal=journal, stage="revise")

    async def work(item):
        text = str(item)
        for step in range(4):
            made = await model.generate((user(text),), sampling=Sampling(), seed=item + step)
            text = made.text
        print(item, flush=True)
        return text

    await run_records(
        range(120), stage="revise", work=work, key=str, dump=str, width=8, max_failed=0.0,
        store=journal.records("revise", context="c"), progress=Silent(),
    )


with Journal(Path(sys.argv[1])) as journal:
    asyncio.run(main(journal))
"""


def test_a_stage_killed_and_restarted_repeats_no_committed_call_and_ends_the_same(tmp_path):
    path = tmp_path / "journal.sqlite"
    for reports, nap_s in ((3, 0.0), (20, 0.1)):
        process = subprocess.Popen(
            [sys.executable, "-c", STAGE, path], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process:
            for _ in range(reports):
                process.stdout.readline()
            time.sleep(nap_s)
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    subprocess.run([sys.executable, "-c", STAGE, path], check=True, stdout=subprocess.DEVNULL)
    with Journal(path) as journal:
        assert journal.repeated() == (0, 0)
        assert journal.spent("revise") == (480, 0)
        results = journal.records("revise", context="c")
        assert all(results.get(str(i)) == f"{i}-{i}-{i + 1}-{i + 2}-{i + 3}" for i in range(120))


def test_an_interrupt_from_the_keyboard_keeps_what_is_finished(tmp_path):
    path = tmp_path / "journal.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", STAGE, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        finished = [process.stdout.readline().strip() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert errors.rstrip().endswith("KeyboardInterrupt")
    with Journal(path) as journal:
        assert all(journal.records("revise", context="c").get(item) for item in finished)
