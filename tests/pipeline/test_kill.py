"""A killed run, started again until it ends, is the run that was never killed."""

import pytest

from tests.pipeline.killing import kill_again_and_again, kill_in_stages, run_to_the_end

KILLS = 20
FEEDBACK = ("compare", "reward", "reinforce")
REINFORCING = (
    "learn=[sft, rl]",
    "reward.epochs=1",
    "reward.min_accuracy=0",  # so few pairs say nothing
    "reward.near_duplicate=1.0",
    "reinforce.steps=5",
    "reinforce.monitor_every=2",
    "reinforce.monitor_prompts=6",
    *(f"{stage}.checkpoint_every_s=0" for stage in ("finetune", "reward", "reinforce")),
)


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


@pytest.mark.slow
def test_killed_again_and_again_in_the_feedback_half_the_run_ends_as_if_never_killed(tmp_path):
    from charter.project import DEMO_CONFIG

    settings = (
        *REINFORCING,
        "revise.rounds=1",
        "finetune.epochs=1",
        "compare.max_new_tokens=24",
        "reinforce.prompts_per_step=4",
        "reinforce.group=4",
        "reinforce.max_new_tokens=24",
        "evaluate.samples=1",
        "evaluate.columns=[base, sft, rl]",
        "evaluate.max_new_tokens=24",
        f"prompts.train={{path: {DEMO_CONFIG.parent}/prompts/train.jsonl, limit: 40}}",
        f"prompts.heldout={{path: {DEMO_CONFIG.parent}/prompts/heldout.jsonl, limit: 12}}",
    )
    straight = tmp_path / "straight"
    run_to_the_end(DEMO_CONFIG, straight, *settings)
    kill_in_stages(DEMO_CONFIG, straight, *settings, stages=FEEDBACK, kills=4, seed=2)


def test_killed_in_compare_reward_and_reinforce_a_run_ends_as_if_never_killed(judged, tmp_path):
    script = judged.parent / "script.yaml"
    script.write_text(script.read_text().replace("choices:", "latency_s: 0.05, choices:"))
    settings = (
        *REINFORCING,
        "models.policy.capacity=2",
        "compare.max_new_tokens=8",
        "reinforce.prompts_per_step=4",
        "reinforce.group=4",
        "reinforce.max_new_tokens=8",
        "evaluate.columns=[base, sft, rl]",
    )
    straight = tmp_path / "straight"
    run_to_the_end(judged, straight, *settings)
    kill_in_stages(judged, straight, *settings, stages=FEEDBACK, kills=1, seed=0)
