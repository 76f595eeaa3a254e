"""A killed run, started again until it ends, is the run that was never killed."""

import random
import signal
import subprocess
import sys
import time

import pytest

from charter.journal import Journal

KILLS = 20


def start(config, folder, *settings):
    command = [sys.executable, "-m", "charter.cli", "run", str(config), "--run", str(folder)]
    for setting in settings:
        command += ["--set", setting]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run_to_the_end(config, folder, *settings):
    began = time.monotonic()
    assert start(config, folder, *settings).wait() == 0
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


def results(folder):
    found = [*(folder / "data").iterdir(), folder / "evaluation.json"]
    found.append(folder / "models" / "sft" / "model.safetensors")
    return {path.name: path.read_bytes() for path in found}


def assert_same_run(straight, killed):
    assert results(killed).keys() == results(straight).keys()
    for name, content in results(straight).items():
        assert results(killed)[name] == content, name
    with Journal(killed / "journal.sqlite") as journal:
        assert journal.repeated() == (0, 0)


@pytest.mark.slow
def test_killed_at_twenty_random_moments_the_run_ends_as_if_never_killed(tmp_path):
    from charter.project import DEMO_CONFIG

    settings = (
        "revise.rounds=1",
        "finetune.epochs=1",
        "finetune.checkpoint_every_s=0.5",
        "evaluate.samples=1",
        "evaluate.columns=[base, sft]",
        f"prompts.train={{path: {DEMO_CONFIG.parent}/prompts/train.jsonl, limit: 120}}",
        f"prompts.heldout={{path: {DEMO_CONFIG.parent}/prompts/heldout.jsonl, limit: 40}}",
    )
    straight = tmp_path / "straight"
    took_s = run_to_the_end(DEMO_CONFIG, straight, *settings)
    kill_again_and_again(
        DEMO_CONFIG, straight, *settings, kills=KILLS, at_most_s=0.6 * took_s, seed=1
    )


def test_a_killed_run_ends_as_if_never_killed(project, tmp_path):
    # The script takes its time, so that the kills find records in flight.
    script = project.parent / "script.yaml"
    script.write_text(script.read_text().replace("text:", "latency_s: 0.05, text:"))
    settings = ("models.policy.capacity=2", "finetune.checkpoint_every_s=0")
    straight = tmp_path / "straight"
    took_s = run_to_the_end(project, straight, *settings)
    kill_again_and_again(project, straight, *settings, kills=2, at_most_s=took_s, seed=0)
