"""The reinforce stage in a run: what it refuses, what it needs, how it accounts for prompts."""

import json
import shutil
import sys

import pytest
import torch

from charter import cli
from charter.config import ModelSource, ReinforceConfig, load_config
from charter.console import Silent
from charter.errors import ConfigError, GuardError, JudgementError, PromptError, RunError
from charter.feedback.ordering import ordering
from charter.feedback.scoring import load_scorer
from charter.learning.scalar import padding_id, save_scalar_model, scalar_model
from charter.models.loading import load
from charter.pipeline import Request, reinforcing, run_pipeline, stages_of
from charter.pipeline.reinforcing import divided_prompts
from charter.pipeline.reporting import write_report
from charter.pipeline.rewarding import reward_scorer
from charter.pipeline.workspace import open_workspace
from charter.records import Prompt, user

SETTINGS = (
    "learn=[sft, rl]",
    "reinforce.steps=2",
    "reinforce.prompts_per_step=2",
    "reinforce.group=2",
    "reinforce.max_new_tokens=4",
    "reinforce.monitor_prompts=4",
)


def run(project, folder, *overrides, **request):
    return run_pipeline(
        Request(config=project, run=folder, overrides=(*SETTINGS, *overrides), **request),
        progress=Silent(),
    )


@pytest.fixture
def taught(judged, tmp_path, tiny_model):
    """Begins a run that has an SFT model: where training started, since any will do."""

    def begin(*overrides):
        folder = tmp_path / "run"
        request = Request(config=judged, run=folder, overrides=(*SETTINGS, *overrides))
        with open_workspace(request, progress=Silent()):
            shutil.copytree(tiny_model, folder / "models" / "sft")
        return folder

    return begin


@pytest.fixture
def reward_model(tmp_path, tiny_model):
    """The path of a reward model with a head as it was drawn."""
    loaded = load(ModelSource(source=str(tiny_model)))
    pad = padding_id(loaded.tokenizer, loaded.encoder)
    save_scalar_model(
        scalar_model(loaded.model, pad_id=pad, seed=0),
        tokenizer=loaded.tokenizer,
        encoder=loaded.encoder,
        directory=tmp_path / "scalar",
        dtype=torch.float32,
    )
    return tmp_path / "scalar"


def measured(folder, *, rate):
    """Writes down a reward model that orders so many pairs as their labels say."""
    found = ordering(())
    accuracy = found.accuracy.model_copy(update={"rate": rate, "low": 0.0, "high": 1.0, "n": 40})
    text = found.model_copy(update={"accuracy": accuracy}).model_dump_json()
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "metrics" / "reward.json").write_text(text)


def test_a_reward_model_that_fails_its_gate_ends_the_command_with_code_6(
    judged, taught, reward_model, monkeypatch, capsys
):
    folder = taught()
    shutil.move(reward_model, folder / "models" / "reward")
    monkeypatch.setenv("COLUMNS", "200")
    command = ["charter", "reinforce", str(judged), "--run", str(folder)]
    command += [part for setting in SETTINGS for part in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", command)
    measured(folder, rate=0.6)
    assert cli._exit_code() == GuardError.exit_code == 6
    said = " ".join(capsys.readouterr().err.split())
    assert "60.0% of 40 held-out pairs" in said
    assert "reward.min_accuracy = 65%" in said
    assert not (folder / "models" / "rl").exists()
    assert f"`charter report {folder}` shows it" in said
    page = write_report(folder).read_text()
    assert "60.0" in page or "60 %" in page
    measured(folder, rate=0.65)
    assert cli._exit_code() == 0
    assert (folder / "models" / "rl" / "model.safetensors").exists()


def test_every_prompt_is_learnt_from_watched_or_left_out_for_a_reason(
    judged, taught, reward_model, tmp_path
):
    heldout = json.loads((tmp_path / "heldout.jsonl").read_text().splitlines()[0])
    more = json.dumps(heldout | {"id": "asked-before"}) + "\n"
    (tmp_path / "rl.jsonl").write_text((tmp_path / "train.jsonl").read_text() + more)
    settings = (f"prompts.rl={tmp_path}/rl.jsonl", f"reinforce.reward={reward_model}")
    folder = taught(*settings)
    tally = run(judged, folder, *settings, only="reinforce").manifest.stages["reinforce"]
    assert tally.entered == tally.done + tally.failed + tally.filtered == 25
    assert (tally.done, sum(tally.reasons.values())) == (24, 1)
    result = json.loads((folder / "models" / "rl" / "training.json").read_text())
    assert (result["prompts"], result["watched_prompts"]) == (20, 4)
    assert (result["steps"], result["rollouts"]) == (2, 8)
    assert 0 < result["tokens"] == tally.tokens <= 8 * 4
    rows = (folder / "metrics" / "reinforce.jsonl").read_text().splitlines()
    assert [json.loads(row)["kind"] for row in rows] == ["look", "step", "step", "look"]


def test_a_prompt_without_room_for_a_response_is_counted_and_left_out(
    judged, taught, reward_model, tmp_path
):
    endless = json.dumps({"id": "endless", "prompt": "where is it " * 500}) + "\n"
    (tmp_path / "rl.jsonl").write_text((tmp_path / "train.jsonl").read_text() + endless)
    settings = (f"prompts.rl={tmp_path}/rl.jsonl", f"reinforce.reward={reward_model}")
    folder = taught(*settings)
    tally = run(judged, folder, *settings, only="reinforce").manifest.stages["reinforce"]
    assert (tally.done, tally.reasons) == (24, {"overlong": 1})
    assert run(judged, folder, *settings, only="reinforce").manifest.stages["reinforce"] == tally


def test_where_no_prompt_leaves_room_for_a_response_the_length_is_named(
    judged, taught, reward_model
):
    settings = (f"reinforce.reward={reward_model}", "reinforce.max_new_tokens=512")
    folder = taught(*settings)
    with pytest.raises(PromptError) as refused:
        run(judged, folder, *settings, only="reinforce")
    said = str(refused.value)
    assert "RL has 0 prompts" in said
    assert "24 more are left out" in said
    assert "`reinforce.max_new_tokens` = 512 behind them. Lower that" in said


def test_too_few_prompts_are_to_be_more_where_none_is_overlong():
    section = ReinforceConfig()
    with pytest.raises(PromptError, match=r"RL has 1 prompts.*to watch\. Name more in"):
        divided_prompts([asked(1, "what")], section=section, near_duplicate=0.8, seed=0)


def test_a_response_needs_room_in_the_reward_model_too(judged, taught, reward_model, tmp_path):
    asked = "where is it " * 40
    long = json.dumps({"id": "long", "prompt": asked}) + "\n"
    (tmp_path / "rl.jsonl").write_text((tmp_path / "train.jsonl").read_text() + long)
    settings = (f"prompts.rl={tmp_path}/rl.jsonl", f"reinforce.reward={reward_model}")
    scorer = load_scorer(reward_model)
    needed = len(scorer.encoder.prompt_ids((user(asked.strip()),))) + 4 + 1
    assert needed < scorer.context  # which is the policy's too
    settled = json.loads((reward_model / "config.json").read_text())
    shorter = settled | {"max_position_embeddings": needed - 1}
    (reward_model / "config.json").write_text(json.dumps(shorter))
    folder = taught(*settings)
    tally = run(judged, folder, *settings, only="reinforce").manifest.stages["reinforce"]
    assert (tally.done, tally.reasons) == (24, {"overlong": 1})


def test_a_result_that_cannot_be_read_says_what_to_delete_and_is_made_again(
    judged, taught, reward_model
):
    settings = (f"reinforce.reward={reward_model}",)
    folder = taught(*settings)
    run(judged, folder, *settings, only="reinforce")
    result = folder / "models" / "rl" / "training.json"
    result.write_text("{}")
    with pytest.raises(RunError, match=r"training\.json: cannot be read.*Delete the file"):
        run(judged, folder, *settings, only="reinforce")
    result.unlink()
    run(judged, folder, *settings, only="reinforce")
    assert result.exists()


def test_the_judge_as_reward_needs_no_reward_model(judged, taught):
    folder = taught("reinforce.reward=judge")
    outcome = run(judged, folder, "reinforce.reward=judge", only="reinforce")
    assert list(outcome.manifest.stages) == ["reinforce"]
    assert (folder / "models" / "rl" / "model.safetensors").exists()
    assert not (folder / "models" / "reward").exists()


def test_of_many_comparisons_without_a_verdict_a_few_are_named(judged, taught, monkeypatch, caplog):
    async def undecided(comparison, *, judge):
        raise JudgementError("neither (A) nor (B)")

    monkeypatch.setattr(reinforcing, "judge_comparison", undecided)
    settings = ("reinforce.reward=judge", "reinforce.steps=5")
    folder = taught(*settings)
    with pytest.raises(GuardError, match="one and the same reward"):
        run(judged, folder, *settings, only="reinforce")
    named = [text for text in caplog.messages if "counts as even: neither (A) nor (B)" in text]
    assert len(named) == 3
    assert "comparisons in all count as even" in caplog.text


def test_only_rl_by_a_trained_reward_model_has_a_stage_for_one(judged):
    def stages(*overrides):
        return stages_of(load_config(judged, overrides=(*SETTINGS, *overrides)))

    assert "reward" in stages()
    for source in ("judge", "python:math:fsum", "models/reward"):
        assert "reward" not in stages(f"reinforce.reward={source}")
    bounded = "reinforce.constraint={reward: model, level: 0.0}"
    assert "reward" in stages("reinforce.reward=judge", bounded)


def test_preferences_are_made_for_a_reward_model_or_dpo_alone(judged):
    def stages(*overrides):
        return stages_of(load_config(judged, overrides=(*SETTINGS, *overrides)))

    assert "compare" in stages()
    for source in ("judge", "python:math:fsum", "models/reward"):
        assert "compare" not in stages(f"reinforce.reward={source}")
    assert "compare" in stages("reinforce.reward=judge", "learn=[sft, rl, dpo]")


def test_a_reward_stage_that_nothing_needs_says_why_and_what_would_need_it(judged, taught):
    why = r"`reinforce\.reward` is judge, which needs no stage `reward`\. "
    setting = r"reinforce\.reward=model\."
    with pytest.raises(ConfigError, match=why + f"Set it .* with --set {setting}"):
        run(judged, judged.parent / "new", "reinforce.reward=judge", only="reward")
    # A run that exists keeps its settings: there the remedy is another run.
    folder = taught("reinforce.reward=judge")
    another = f"{folder} keeps its settings, .*--run NEW --reuse {folder} --set {setting}"
    with pytest.raises(ConfigError, match=why + another):
        run(judged, folder, "reinforce.reward=judge", only="reward")


def test_the_gate_holds_for_a_constraint_by_the_reward_model_too(judged, taught, reward_model):
    settings = ("reinforce.reward=judge", "reinforce.constraint={reward: model, level: 0.0}")
    folder = taught(*settings)
    shutil.move(reward_model, folder / "models" / "reward")
    measured(folder, rate=0.6)
    with pytest.raises(GuardError, match=rf"--run NEW --reuse {folder}"):
        run(judged, folder, *settings, only="reinforce")
    measured(folder, rate=0.65)
    run(judged, folder, *settings, only="reinforce")
    assert (folder / "models" / "rl" / "model.safetensors").exists()


def test_a_reward_model_that_is_not_there_is_a_mistake_in_the_configuration(judged, taught):
    folder = taught("reinforce.reward=nowhere")
    with pytest.raises(ConfigError, match=r"nowhere is no directory.*Name `model`"):
        run(judged, folder, "reinforce.reward=nowhere", only="reinforce")


@pytest.mark.parametrize(("dtype", "other"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_reward_model_is_read_in_the_dtype_of_its_base(
    judged, tmp_path, tiny_model, reward_model, dtype, other
):
    base = f"reward.base={{source: {tiny_model}, dtype: {dtype}}}"
    request = Request(config=judged, run=tmp_path / "run", overrides=(*SETTINGS, base))
    with open_workspace(request, progress=Silent()) as workspace:
        read = reward_scorer(workspace, reward_model)
    asked = ((user("may i have my order"),), ["no"])
    as_told, otherwise = (
        load_scorer(reward_model, dtype=getattr(torch, each)).rewards(*asked)
        for each in (dtype, other)
    )
    assert read.rewards(*asked) == as_told != otherwise


def test_without_a_reward_model_the_stage_says_which_command_makes_one(judged, taught):
    folder = taught()
    with pytest.raises(RunError, match="Run `charter reward` first"):
        run(judged, folder, only="reinforce")


def asked(number: int, text: str) -> Prompt:
    return Prompt(id=f"{number:03}", messages=(user(text),), kind="benign")


def test_what_is_watched_has_no_near_duplicate_that_is_learnt_from():
    alike = "can you tell me where the parcel with the red lamp went last week, {}"
    twins = [asked(number, alike.format(number)) for number in range(10)]
    others = [asked(number, f"what about {number} and {number}") for number in range(50, 60)]
    section = ReinforceConfig(monitor_prompts=6)
    for seed in range(5):
        parts = divided_prompts([*twins, *others], section=section, near_duplicate=0.8, seed=seed)
        assert len(parts.watched) == 6
        assert {*parts.watched} <= {*others}
    parts = divided_prompts(twins, section=section, near_duplicate=0.8, seed=0)
    assert (len(parts.learnt_from), len(parts.watched)) == (5, 5)
