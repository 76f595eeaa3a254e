"""A run that two processes share is the run of one; an error of one is the end of both."""

import json
import os
import shutil

import pytest
from safetensors.torch import load_file

from charter.console import Silent
from charter.pipeline import Request
from charter.pipeline.workspace import open_workspace
from tests.launching import launch, start_pair
from tests.pipeline.killing import TIMINGS, run_to_the_end

SETTINGS = (
    "learn=[sft, rl, dpo]",
    "finetune.tokens_per_batch=256",
    "compare.max_new_tokens=8",
    "reward.epochs=1",
    "reward.min_accuracy=0",  # so few pairs say nothing
    "reward.near_duplicate=1.0",
    "dpo.epochs=1",
    "dpo.near_duplicate=1.0",
    "reinforce.lr=0.001",
    "reinforce.steps=3",
    "reinforce.prompts_per_step=3",  # one process gets two, the other one
    "reinforce.group=4",
    "reinforce.max_new_tokens=8",
    "reinforce.tokens_per_batch=64",  # batches of one prompt: the other process has none
    "reinforce.passes=2",
    "reinforce.kl_budget=0.05",
    "reinforce.sft_weight=0.1",
    "reinforce.monitor_every=2",
    "reinforce.monitor_prompts=5",
    "evaluate.columns=[base, sft, rl, dpo]",
)
CLOSE = 1e-5
"""Sums in another order differ by the rounding of float32; so do weights after a few steps."""
CALM = "tests.pipeline.calm"
"""Runs charter so that this is true of Adam's steps too."""


def rows(path):
    return [
        {name: value for name, value in json.loads(line).items() if name not in TIMINGS}
        for line in path.read_text().splitlines()
    ]


def data(path):
    """The records of a file, but for the hash of the weights that answered."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record.get("provenance", {}).pop("policy", None)
    return records


def files(folder):
    """What a run leaves, but for what a journal may or may not have beside it."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("journal.sqlite-")
    }


def assert_close(one, two):
    """Rows of metrics: the same but for rounding, which is no more than that of the weights.

    So the rollouts are the same tokens: another one, of a hundred a step, would be seen in the
    entropy. It comes only where a draw falls so near a boundary that rounding decides.
    """
    assert len(one) == len(two)
    for mine, theirs in zip(one, two, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            exact = name in ("kind", "step", "length_tokens", "truncated_share", "tokens")
            assert mine[name] == (theirs[name] if exact else pytest.approx(theirs[name], abs=CLOSE))


SPREAD = tuple(f"{stage}.shard=true" for stage in ("finetune", "reward", "dpo"))


@pytest.mark.slow
@pytest.mark.parametrize("spread", [(), SPREAD], ids=["whole", "spread"])
def test_two_processes_make_the_run_that_one_makes(judged, tmp_path, spread):
    one, two = tmp_path / "one", tmp_path / "two"
    run_to_the_end(judged, one, *SETTINGS, module=CALM)
    main, follower = launch(
        "run", judged, two, *SETTINGS, *spread, logs=tmp_path / "logs", module=CALM
    )
    assert "Everything is in" in main
    assert follower == ""
    assert files(two) == files(one)
    for path in (one / "data").iterdir():
        assert data(two / "data" / path.name) == data(path), path.name
    for stage in ("finetune", "reward", "reinforce", "dpo"):
        name = f"metrics/{stage}.jsonl"
        assert_close(rows(one / name), rows(two / name))
    taught = load_file(one / "models" / "sft" / "model.safetensors")
    for model in ("reward", "rl", "dpo"):
        after = load_file(one / "models" / model / "model.safetensors")
        moved = max((after[name] - taught[name]).abs().max() for name in after.keys() & taught)
        assert moved > 50 * CLOSE, model  # or it would be no wonder that the two are alike
    for model in ("sft", "reward", "rl", "dpo"):
        ours = load_file(two / "models" / model / "model.safetensors")
        for name, tensor in load_file(one / "models" / model / "model.safetensors").items():
            assert (ours[name] - tensor).abs().max() <= CLOSE, (model, name)


@pytest.fixture
def taught(judged, tmp_path, tiny_model):
    """Begins a run that has an SFT model, for RL by a function that the second process lacks."""
    (tmp_path / "lacking.py").write_text(
        "import os\n"
        "from charter.errors import GuardError\n"
        "def reward(prompts, texts):\n"
        "    if os.environ['RANK'] == '1':\n"
        "        raise GuardError('the second process has had enough')\n"
        "    return [float(len(text)) for text in texts]\n"
    )
    settings = (*SETTINGS, "reinforce.sft_weight=0", "reinforce.reward=python:lacking:reward")
    request = Request(config=judged, run=tmp_path / "run", overrides=settings)
    with open_workspace(request, progress=Silent()) as workspace:
        shutil.copytree(tiny_model, workspace.directory.models / "sft")
    return settings


@pytest.mark.slow
def test_an_error_of_one_process_ends_both_and_is_told_once(judged, tmp_path, taught):
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    pair = start_pair("reinforce", judged, tmp_path / "run", *taught, PYTHONPATH=path)
    said = ["".join(process.communicate(timeout=300)) for process in pair]
    assert [process.returncode for process in pair] == [6, 6]
    assert "".join(said).count("the second process has had enough") == 1
    assert "Traceback" not in "".join(said)
    assert not (tmp_path / "run" / "models" / "rl").exists()


@pytest.mark.slow
def test_a_mistake_that_all_processes_find_is_told_once(judged, tmp_path):
    pair = start_pair("run", judged, tmp_path / "run", "finetune.epochs=none")
    said = "".join("".join(process.communicate(timeout=300)) for process in pair)
    assert [process.returncode for process in pair] == [2, 2]
    assert said.count("finetune.epochs") == 1
