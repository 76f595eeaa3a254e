"""The stages reward and dpo in a run, on preferences that were made beforehand."""

import json

import pytest
from typer.testing import CliRunner

from charter.cli import app
from charter.config import load_config
from charter.console import Silent
from charter.errors import GuardError, PromptError, RunError
from charter.pipeline import Request, run_pipeline, stages_of
from charter.pipeline.gathering import gathered, human_preferences
from charter.pipeline.rewarding import require_accurate_reward
from charter.pipeline.workspace import open_workspace
from tests.feedback.learners import preference

SETTINGS = (
    "learn=[sft, rl, dpo]",
    "reward.epochs=1",
    "reward.near_duplicate=1.0",
    "dpo.near_duplicate=1.0",
    "dpo.epochs=1",
)


def run(project, folder, **request):
    request = {"overrides": SETTINGS} | request
    return run_pipeline(Request(config=project, run=folder, **request), progress=Silent())


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def with_preferences(project, folder, **request):
    """A run with an SFT model and preferences."""
    run(project, folder, until="finetune", **request)
    lines = [preference(number).model_dump_json() for number in range(40)]
    (folder / "data" / "preferences.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def preferred(project, tmp_path):
    return with_preferences(project, tmp_path / "run")


def human(tmp_path, count=30):
    """The path of people's preferences in hh-rlhf's form."""
    asked = "\n\nHuman: question {0}, number {0}?\n\nAssistant:"
    pairs = [
        {
            "chosen": asked.format(n) + f" I can help you with {n}.",
            "rejected": asked.format(n) + f" Go away {n}.",
        }
        for n in range(count)
    ]
    path = tmp_path / "human.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_a_stage_accounts_for_every_preference(project, preferred, stage):
    outcome = run(project, preferred, only=stage)
    tally = outcome.manifest.stages[stage]
    assert tally.entered == tally.done + tally.failed + tally.filtered == 40
    assert (preferred / "models" / stage / "model.safetensors").exists()
    figures = json.loads((preferred / "metrics" / f"{stage}.json").read_text())
    parts = [len(rows(preferred / "data" / f"{stage}_{part}.jsonl")) for part in
             ("train", "validation")]  # fmt: skip
    assert sum(parts) == 40
    assert figures["accuracy"]["n"] == parts[1]
    assert {"accuracy", "auc", "ece", "calibration", "by_principle", "by_source", "by_kind",
            "by_length", "loss"} <= figures.keys()  # fmt: skip


def test_what_is_too_long_is_counted_as_filtered(project, tmp_path):
    settings = (*SETTINGS, "reward.max_length=60")
    folder = with_preferences(project, tmp_path / "run", overrides=settings)
    tally = run(project, folder, only="reward", overrides=settings).manifest.stages["reward"]
    assert tally.reasons["too_long"] == tally.filtered > 0
    assert tally.entered == tally.done + tally.filtered == 40


def test_the_reward_model_starts_where_its_base_says(project, tmp_path, tiny_model):
    people = human(tmp_path)
    settings = (*SETTINGS, f"reward.base={tiny_model}", f"compare.human={{path: {people}}}")
    outcome = run(project, tmp_path / "run", only="reward", overrides=settings)
    assert outcome.manifest.stages["reward"].entered == 30
    figures = json.loads((tmp_path / "run" / "metrics" / "reward.json").read_text())
    assert list(figures["by_source"]) == ["human"]


def test_people_of_whom_no_preference_can_be_used_are_not_passed_over(project, tmp_path):
    people = tmp_path / "people.jsonl"
    people.write_text('{"chosen": "Hello."}\n')
    settings = (*SETTINGS, "compare.revised_share=0", f"compare.human={{path: {people}}}")
    request = Request(config=project, run=tmp_path / "run", overrides=settings)
    with open_workspace(request, progress=Silent()) as workspace:
        for read in (gathered, human_preferences):
            with pytest.raises(PromptError, match=r"people\.jsonl: no usable pair(?s:.)*:1: no"):
                read(workspace)


def test_without_any_preferences_the_stage_says_where_they_come_from(project, tmp_path):
    run(project, tmp_path / "run", until="finetune")
    with pytest.raises(RunError, match=r"Run `charter compare` first, or name people's"):
        run(project, tmp_path / "run", only="reward")


def test_without_an_sft_model_the_stage_says_which_command_makes_one(project, tmp_path):
    people = human(tmp_path)
    with pytest.raises(RunError, match="Run `charter finetune` first"):
        run(
            project,
            tmp_path / "run",
            only="dpo",
            overrides=(*SETTINGS, f"compare.human={{path: {people}}}"),
        )


def test_the_gate_of_a_run_goes_by_what_its_reward_stage_measured(project, preferred):
    run(project, preferred, only="reward")
    request = Request(config=project, run=preferred, overrides=SETTINGS)
    path = preferred / "metrics" / "reward.json"
    figures = json.loads(path.read_text())
    for rate, refused in ((0.2, True), (0.9, False)):
        for asked in ("accuracy", "judged"):
            figures[asked] = figures["accuracy"] | {"rate": rate, "n": 40}
        path.write_text(json.dumps(figures))
        with open_workspace(request, progress=Silent()) as workspace:
            if refused:
                with pytest.raises(GuardError, match=r"20\.0% of"):
                    require_accurate_reward(workspace)
            else:
                require_accurate_reward(workspace)


def test_a_deleted_model_is_made_again_and_equal(project, preferred):
    run(project, preferred, only="dpo")
    weights = preferred / "models" / "dpo" / "model.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    run(project, preferred, only="dpo")
    assert weights.read_bytes() == before


def test_stages_belong_to_what_is_learnt(project):
    def stages(*overrides):
        return stages_of(load_config(project, overrides=overrides))

    assert "reward" in stages("learn=[sft, rl]")
    assert "reward" not in stages("learn=[sft, rl]", "reinforce.reward=judge")
    assert "dpo" not in stages("learn=[sft, rl]")
    assert stages("learn=[sft, dpo]")[-2:] == ("dpo", "evaluate")


@pytest.mark.parametrize("command", ["reward", "dpo"])
def test_there_is_a_command_for_the_stage(command):
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"charter {command} charter.yaml" in shown.output
