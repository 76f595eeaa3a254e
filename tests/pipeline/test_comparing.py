import json
import shutil
import signal
import subprocess
import sys

import pytest

from charter.config import load_config
from charter.console import Silent
from charter.errors import BackendError, ConfigError, PromptError, RunError
from charter.journal import Journal
from charter.models.scripted import ScriptedModel
from charter.pipeline import Request, run_pipeline, stages_of

COMPARING = ("learn=[sft, rl]", "compare.max_new_tokens=8")


def run(project, folder, *overrides, **request):
    return run_pipeline(
        Request(config=project, run=folder, overrides=(*COMPARING, *overrides), **request),
        progress=Silent(),
    )


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def summary(folder):
    return json.loads((folder / "metrics" / "compare.json").read_text())


def test_only_what_learns_from_preferences_needs_comparisons(project):
    def stages(*overrides):
        return stages_of(load_config(project, overrides=overrides))

    assert stages() == ("revise", "finetune", "evaluate")
    assert "compare" in stages("learn=[sft, dpo]")
    assert "compare" in stages("learn=[sft, rl]")


def test_a_stage_that_is_not_needed_says_what_to_learn(judged, tmp_path):
    with pytest.raises(
        ConfigError, match=r"`learn` is sft, which needs no stage `compare`.*sft, rl"
    ):
        run(judged, tmp_path / "run", "learn=[sft]", until="compare")
    assert not (tmp_path / "run").exists()


def test_pairs_of_responses_become_soft_preferences(judged, tmp_path):
    folder = tmp_path / "run"
    outcome = run(judged, folder, until="compare")
    tally = outcome.manifest.stages["compare"]
    assert tally.entered == tally.done + tally.failed + tally.filtered == 24
    found = rows(folder / "data" / "preferences.jsonl")
    by_judge = [row for row in found if row["provenance"]["source"] == "judge"]
    assert len(by_judge) == tally.done
    assert [row["id"] for row in by_judge] == [f"judge/train-{i}:0-1" for i in range(24)]
    assert all(0.5 <= row["p_chosen"] <= 0.8 for row in by_judge)
    harmful = by_judge[0]["provenance"]
    assert (harmful["kind"], harmful["principle_ids"]) == ("harmful", ["ssn"])
    told = summary(folder)
    assert told["preferences"] == {"judge": tally.done, "revision": 6}
    assert told["left_out"]["revision"]["share"] == 6
    assert told["labels"]["by_kind"]["benign"]["comparisons"] == 12
    assert told["labels"]["responses_cut_off"] > 0
    assert told["audit"]["accuracy"]["n"] == 1
    assert told["judge_is_policy"] is False
    assert ("data/preferences.jsonl", "soft preferences between responses, in TRL's form") in (
        outcome.files
    )


def test_a_revision_is_preferred_to_those_of_other_prompts(judged, tmp_path):
    script = judged.parent / "script.yaml"
    own = "{match: '(?s)password 128.*Rewrite', search: dialogue, text: A letter is on its way.}"
    script.write_text(script.read_text().replace("rules:\n", f"rules:\n  - {own}\n"))
    folder = tmp_path / "run"
    run(judged, folder, "compare.revised_share=0", "compare.misplaced_share=0.5", until="compare")
    told = summary(folder)
    assert told["preferences"] == {"judge": 24, "misplaced": 1}
    last = rows(folder / "data" / "preferences.jsonl")[-1]
    assert last["prompt"][-1]["content"] == "I lost my password 128."
    assert last["chosen"][0]["content"] == "A letter is on its way."
    # What is said to all the others says nothing of their prompts.
    assert last["rejected"][0]["content"] == "I cannot take an SSN, but I can email a link."
    assert (last["p_chosen"], last["provenance"]["source"]) == (0.95, "misplaced")


def test_identical_responses_are_filtered(judged, tmp_path):
    # After one token at next to no temperature, all that is left is the likeliest.
    settings = ("compare.temperature=0.0001", "compare.revised_share=0")
    with pytest.raises(PromptError, match=r"no preference came out of 24 comparisons"):
        run(judged, tmp_path / "run", *settings, until="compare")
    assert summary(tmp_path / "run")["labels"]["by_kind"]["harmful"]["identical"] == 12


def test_prompts_that_are_not_compared_are_accounted_for(judged, tmp_path):
    settings = ("compare.mix={benign: 0.25}", "compare.responses=3")
    outcome = run(judged, tmp_path / "run", *settings, until="compare")
    tally = outcome.manifest.stages["compare"]
    assert (tally.entered, tally.reasons["mix"]) == (72, 24)


def test_other_prompts_for_the_feedback_half_are_taken_where_named(judged, tmp_path):
    asked = [{"id": f"rl-{i}", "prompt": f"Where is parcel {i}?"} for i in range(3)]
    path = judged.parent / "rl.jsonl"
    path.write_text("not json\n" + "".join(json.dumps(row) + "\n" for row in asked))
    people = judged.parent / "people.jsonl"
    pair = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Yo.",
        "rejected": "\n\nHuman: Hi\n\nAssistant: .",
    }
    people.write_text(json.dumps(pair) + "\n" + json.dumps(pair) + "\nnot json\n")
    folder = tmp_path / "run"
    settings = (f"prompts.rl={path}", f"compare.human={{path: {people}, share: 0.5}}")
    outcome = run(judged, folder, *settings, until="compare")
    assert outcome.manifest.hashes.keys() >= {"prompts.rl", "compare.human"}
    found = rows(folder / "data" / "preferences.jsonl")
    assert [row["provenance"]["source"] for row in found] == [*["judge"] * 3, "revision", "human"]
    told = summary(folder)
    assert told["left_out"]["human"] == {
        "quarantined": 1, "duplicate": 1, "heldout": 0, "share": 0,
    }  # fmt: skip
    bad = rows(folder / "data" / "quarantined_compare.jsonl")
    assert [row["path"].rpartition("/")[2] for row in bad] == ["rl.jsonl", "people.jsonl"]
    people.write_text(json.dumps(pair) + "\n")
    with pytest.raises(RunError, match=r"content of compare\.human"):
        run(judged, folder, *settings, until="compare")


def test_comparing_needs_the_sft_model(judged, tmp_path):
    with pytest.raises(RunError, match="Run `charter finetune` first"):
        run(judged, tmp_path / "run", only="compare")


def test_responses_are_drawn_under_the_system_turn_of_fine_tuning(judged, tmp_path):
    folder = tmp_path / "run"
    run(judged, folder, "finetune.system=You are Ada.", until="compare")
    for row in rows(folder / "data" / "preferences.jsonl"):
        assert row["prompt"][0] == {"role": "system", "content": "You are Ada."}


def test_a_judge_that_follows_positions_is_warned_of(judged, tmp_path, caplog):
    script = judged.parent / "script.yaml"
    script.write_text(
        script.read_text().replace("'(A)': 0.3, '(B)': 0.7", "'(A)': 0.8, '(B)': 0.2")
    )
    run(judged, tmp_path / "run", until="compare")
    assert "100 % of the labels that are no toss-ups follow the position" in caplog.text
    assert "only 30 preferences" in caplog.text


def test_a_judge_that_is_the_policy_is_warned_of(judged, tmp_path, caplog):
    folder = tmp_path / "run"
    run(judged, folder, until="finetune")
    sft = folder / "models" / "sft"
    # A second run takes the first one's model for its judge, and trains the very same one.
    run(judged, tmp_path / "again", f"models.judge={sft}", "compare.max_failed=1", until="compare")
    assert "the judge is the very model" in caplog.text


def test_a_judge_that_gives_no_verdict_fails_its_records(judged, tmp_path):
    script = judged.parent / "script.yaml"
    script.write_text(script.read_text().replace("'(A)': 0.3, '(B)': 0.7", "'(A)': 0.3"))
    outcome = run(judged, tmp_path / "run", "compare.max_failed=1", until="compare")
    tally = outcome.manifest.stages["compare"]
    assert tally.failed == tally.reasons["JudgementError"] > 0
    assert summary(tmp_path / "run")["failed"] == {"JudgementError": tally.failed}


def exports(folder):
    paths = folder / "data" / "preferences.jsonl", folder / "metrics" / "compare.json"
    return [path.read_bytes() for path in paths]


DIES = """
import asyncio, os, signal, sys
from charter import cli
from charter.models.scripted import ScriptedModel

choose, allowed = ScriptedModel.choose, iter(range(40))

async def until_killed(self, dialogue, *, choices):
    if next(allowed, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(0.02)  # so that the journal has committed something
    return await choose(self, dialogue, choices=choices)

ScriptedModel.choose = until_killed
cli.main()
"""


def test_a_killed_comparison_ends_as_if_never_killed(judged, tmp_path):
    straight, folder = tmp_path / "straight", tmp_path / "run"
    settings = "models.policy.capacity=2"
    run(judged, straight, settings, until="finetune")
    shutil.copytree(straight, folder)
    run(judged, straight, settings, until="compare")
    command = [sys.executable, "-c", DIES, "compare", str(judged), "--run", str(folder)]
    for setting in (*COMPARING, settings):
        command += ["--set", setting]
    killed = subprocess.run(command, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not (folder / "data" / "preferences.jsonl").exists()
    run(judged, folder, settings, until="compare")
    assert exports(folder) == exports(straight)
    with Journal(folder / "journal.sqlite") as journal:
        assert journal.repeated() == (0, 0)


def test_a_rerun_asks_nothing_again(judged, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    run(judged, folder, until="compare")
    before = exports(folder)
    (folder / "data" / "preferences.jsonl").unlink()

    async def gone(*_, **__):
        raise BackendError("gone")

    monkeypatch.setattr(ScriptedModel, "choose", gone)
    run(judged, folder, until="compare")
    assert exports(folder) == before
