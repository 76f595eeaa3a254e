"""Runs that are killed and started again, and what must be left of one that was not."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

from charter.journal import Journal

TIMINGS = {"seconds", "tokens_per_s"}
"""What a row of metrics says of the machine."""


def start(config, folder, *settings, module="charter.cli"):
    command = [sys.executable, "-m", module, "run", str(config), "--run", str(folder)]
    for setting in settings:
        command += ["--set", setting]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run_to_the_end(config, folder, *settings, module="charter.cli"):
    began = time.monotonic()
    assert start(config, folder, *settings, module=module).wait() == 0
    return time.monotonic() - began


def kill_again_and_again(config, straight, *settings, kills, at_most_s, seed):
    """Kills runs so many times; every run that gets to its end must equal the straight one."""
    rng = random.Random(seed)
    finished = 0
    folder = straight.with_name("killed-0")
    while kills:
        process = start(config, folder, *settings)
        try:
            assert process.wait(timeout=rng.uniform(0.2, 1.0) * at_most_s) == 0
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills -= 1
        else:
            assert_same_run(straight, folder)
            finished += 1
            folder = straight.with_name(f"killed-{finished}")
    assert start(config, folder, *settings).wait() == 0
    assert_same_run(straight, folder)


def kill_in_stages(config, straight, *settings, stages, kills, seed):
    """Kills runs in the midst of each of these stages, in their order, so many times."""
    rng = random.Random(seed)
    for number in range(kills):
        folder = straight.with_name(f"killed-{number}")
        for stage in stages:
            process = start(config, folder, *settings)
            wait_for(
                stage, folder, rows=rng.randrange(1, rows_of(stage, straight)), process=process
            )
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert start(config, folder, *settings).wait() == 0
        assert_same_run(straight, folder)


def wait_for(stage, folder, *, rows, process):
    """Waits until a stage has got so far; the run must not end before."""
    while rows_of(stage, folder) < rows:
        assert process.poll() is None, f"ended with {process.returncode} before {stage} got so far"
        time.sleep(0.005)


def rows_of(stage, folder):
    """How far a stage is: its finished records, or its steps and looks where it trains."""
    if stage == "compare":
        return records_of(stage, folder / "journal.sqlite")
    path = folder / "metrics" / f"{stage}.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def records_of(stage, path):
    """How many finished records of a stage a journal holds, read beside the run that writes it."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            query = "SELECT count(*) FROM records WHERE stage = ?"
            return database.execute(query, (stage,)).fetchone()[0]
    except sqlite3.OperationalError:  # not there yet
        return 0


def results(folder):
    """All that a run has made, without what it says of the time that it took."""
    found = [*(folder / "data").iterdir(), folder / "evaluation.json"]
    found += (folder / "models").glob("*/*.safetensors")
    found += (folder / "metrics").glob("*.json")
    same = {str(path.relative_to(folder)): path.read_bytes() for path in found}
    for path in (folder / "metrics").glob("*.jsonl"):
        rows = map(json.loads, path.read_text().splitlines())
        same[path.name] = [
            {name: value for name, value in row.items() if name not in TIMINGS} for row in rows
        ]
    return same


def assert_same_run(straight, killed):
    expected, found = results(straight), results(killed)
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        assert found[name] == content, name
    with Journal(killed / "journal.sqlite") as journal:
        assert journal.repeated() == (0, 0)
