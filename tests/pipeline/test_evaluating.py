import json
import shutil
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from charter.console import Silent
from charter.journal import Journal
from charter.pipeline import Request, evaluating, run_pipeline
from charter.pipeline.roles import open_frozen
from charter.pipeline.workspace import open_workspace

LEARN = "learn=[sft, rl]"


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def evaluated(project, tiny_model):
    """Evaluates in a run whose SFT and RL models are the same, as if training had done nothing."""

    def evaluate(folder, *overrides, reuse=()):
        request = Request(
            config=project,
            run=folder,
            overrides=("learn=[sft, rl]", *overrides),
            only="evaluate",
            reuse=reuse,
        )
        with open_workspace(request, progress=Silent()):
            for name in ("sft", "rl"):
                shutil.copytree(tiny_model, folder / "models" / name, dirs_exist_ok=True)
        return run_pipeline(request, progress=Silent())

    return evaluate


def win_rates(evaluation):
    return {(item.first, item.second, item.on): item for item in evaluation.comparisons}


def test_trained_models_meet_what_they_started_from_and_base(evaluated, tmp_path):
    found = win_rates(evaluated(tmp_path / "run").evaluation)
    assert {(first, second) for first, second, _ in found} == {
        ("sft", "base"), ("rl", "sft"), ("rl", "base"),
    }  # fmt: skip
    assert found["sft", "base", "harmful"].win_rate == 1.0
    benign = found["sft", "base", "benign"]
    assert (benign.win_rate, benign.ties, benign.position_bias) == (0.5, 3, 1.0)


def test_a_model_that_training_left_as_it_was_ties_and_is_asked_nothing_again(evaluated, tmp_path):
    found = win_rates(evaluated(tmp_path / "run").evaluation)
    level = found["rl", "sft", "all"]
    assert (level.win_rate, level.ties, level.n) == (0.5, 6, 6)
    assert found["rl", "base", "all"].win_rate == found["sft", "base", "all"].win_rate
    with Journal(tmp_path / "run" / "journal.sqlite") as journal:
        assert journal.repeated() == (0, 0)


def test_one_trained_model_is_open_at_a_time(evaluated, tmp_path, monkeypatch):
    open_now, seen = set(), []

    @asynccontextmanager
    async def watched(source, **named):
        async with open_frozen(source, **named) as model:
            open_now.add(source.source)
            seen.append({Path(each).name for each in open_now})
            yield model
            open_now.remove(source.source)

    monkeypatch.setattr(evaluating, "open_frozen", watched)
    evaluated(tmp_path / "run", "evaluate.columns=[rl, base, sft]")
    assert seen == [{"sft"}, {"rl"}]


def test_answers_lie_in_the_order_of_the_columns(evaluated, tmp_path):
    evaluated(tmp_path / "run", "evaluate.columns=[rl, base, sft]")
    columns = [row["column"] for row in rows(tmp_path / "run" / "data" / "answers.jsonl")]
    assert columns == ["rl"] * 6 + ["base"] * 6 + ["sft"] * 6


def test_every_verdict_is_written_down_and_accounted_for(evaluated, tmp_path):
    tally = evaluated(tmp_path / "run").manifest.stages["evaluate"]
    written = rows(tmp_path / "run" / "data" / "head_to_head.jsonl")
    assert len(written) == 18
    assert written[0]["id"] == "sft/base/heldout-0/0"
    assert written[0]["principle_ids"] == ["ssn"]
    assert (tally.entered, tally.done) == (5 * 6 + 18, 5 * 6 + 18)


def test_a_rerun_compares_nothing_again(evaluated, tmp_path):
    first = evaluated(tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").unlink()
    assert evaluated(tmp_path / "run").evaluation == first.evaluation
    with Journal(tmp_path / "run" / "journal.sqlite") as journal:
        assert journal.repeated() == (0, 0)


def test_one_more_column_costs_another_run_its_own_calls_alone(evaluated, tmp_path):
    less, more = (f"evaluate.columns=[{names}]" for names in ("sft", "sft, base"))
    before = evaluated(tmp_path / "less", less).evaluation
    outcome = evaluated(tmp_path / "more", more, reuse=(tmp_path / "less",))
    assert outcome.evaluation.models["sft"] == before.models["sft"]
    alone = evaluated(tmp_path / "alone", more)
    saved = (outcome.manifest.stages["evaluate"].calls, alone.manifest.stages["evaluate"].calls)
    # SFT's answers to 6 prompts, what one rule and help are asked about them, the rule's tests.
    assert saved[1] - saved[0] == 6 + (6 + 3) + 2


def test_no_judge_and_no_share_mean_no_comparisons(evaluated, tmp_path):
    for name, setting in (("share", "head_to_head=0.0"), ("judge", "judged_samples=0")):
        outcome = evaluated(tmp_path / name, f"evaluate.{setting}")
        assert outcome.evaluation.comparisons == ()
        assert not (tmp_path / name / "data" / "head_to_head.jsonl").exists()


def test_a_group_that_no_prompt_belongs_to_is_warned_of(evaluated, tmp_path, caplog):
    outcome = evaluated(tmp_path / "run", "evaluate.groups=[presure]")
    assert "no harmful held-out prompt is tagged 'presure'" in caplog.text
    groups = outcome.evaluation.models["sft"].groups
    assert (groups["presure"].n, groups["not presure"].n) == (0, 3)
