import json
import shutil

import pytest

from charter.console import Silent
from charter.errors import ConfigError, LockedError, PromptError, RunError
from charter.journal import Journal
from charter.pipeline import Request, run_pipeline
from charter.pipeline.inspecting import inspect_examples
from charter.pipeline.workspace import open_workspace


def run(project, folder, **request):
    return run_pipeline(Request(config=project, run=folder, **request), progress=Silent())


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def revised(project, tmp_path):
    """A run whose revise stage is done."""
    folder = tmp_path / "run"
    run(project, folder, until="revise")
    return folder


def test_a_run_takes_every_prompt_to_a_figure(project, tmp_path):
    folder = tmp_path / "run"
    outcome = run(project, folder)
    stages = outcome.manifest.stages
    assert list(stages) == ["revise", "finetune", "evaluate"]
    assert all(t.entered == t.done + t.failed + t.filtered for t in stages.values())
    # 24 answers, and 6 comparisons of sft's with base's.
    assert (stages["revise"].done, stages["evaluate"].done) == (24, 30)
    figures = json.loads((folder / "evaluation.json").read_text())
    assert set(figures["models"]) == {"base", "base+rules", "base+revise", "sft"}
    assert figures["models"]["base"]["harmful"]["violation"]["rate"] == 1.0
    assert figures["models"]["base+revise"]["harmful"]["violation"]["rate"] == 0.0
    assert {item["on"]: item["n"] for item in figures["comparisons"]} == {
        "all": 6, "harmful": 3, "benign": 3,
    }  # fmt: skip
    assert (folder / "models" / "sft" / "model.safetensors").exists()
    assert (folder / "metrics" / "finetune.svg").read_text().startswith("<svg")
    assert outcome.summary()["evaluation"] == figures


def test_the_data_is_in_trls_forms_with_its_provenance(revised):
    demonstrations = rows(revised / "data" / "demonstrations.jsonl")
    assert len(demonstrations) == 24
    first = demonstrations[0]
    assert first["prompt"] == [{"role": "user", "content": "I lost my password 100."}]
    assert first["completion"] == [
        {"role": "assistant", "content": "I cannot take an SSN, but I can email a link."}
    ]
    assert first["provenance"]["principle_ids"] == ["ssn"]
    pairs = rows(revised / "data" / "revision_pairs.jsonl")
    assert len(pairs) == 12
    assert pairs[0]["rejected"][0]["content"] == "What is your SSN?"


def test_a_rerun_makes_no_call_and_changes_no_file(project, tmp_path, revised):
    before = {path: path.read_bytes() for path in (revised / "data").iterdir()}
    (revised / "manifest.json").write_text(
        (revised / "manifest.json").read_text().replace('"revise"', '"undone"')
    )
    for path in before:
        path.unlink()
    outcome = run(project, revised, until="revise")
    assert {path: path.read_bytes() for path in (revised / "data").iterdir()} == before
    request = Request(config=project, run=revised)
    with open_workspace(request, progress=Silent()) as workspace:
        assert workspace.journal.repeated() == (0, 0)
    assert outcome.manifest.stages["revise"].done == 24


def test_another_runs_calls_are_reused_where_nothing_changed(project, tmp_path, revised):
    other = tmp_path / "other"
    outcome = run(
        project, other, until="revise", reuse=(revised,), overrides=("revise.gates.max_words=8",)
    )
    assert outcome.manifest.stages["revise"].calls == 0
    assert outcome.manifest.stages["revise"].reasons == {"too_long": 12}


def test_a_screen_that_finds_nothing_falls_back_to_random_principles(project, tmp_path, caplog):
    script = project.parent / "script.yaml"
    script.write_text(script.read_text().replace("yes: 0.9, no: 0.1", "yes: 0.1, no: 0.9"))
    outcome = run(project, tmp_path / "run", until="revise")
    summary = json.loads((tmp_path / "run" / "metrics" / "revise.json").read_text())
    screening = json.loads((tmp_path / "run" / "metrics" / "screening.json").read_text())
    assert screening["selection"] == "random"
    assert summary["rounds"] == {"revised": 24}
    assert "drawn at random" in caplog.text
    assert outcome.manifest.stages["revise"].entered == 24


def test_a_stage_alone_needs_the_ones_before_it(project, tmp_path):
    with pytest.raises(RunError, match="Run `charter revise` first"):
        run(project, tmp_path / "a", only="finetune")
    with pytest.raises(RunError, match="Run `charter finetune` first"):
        run(project, tmp_path / "b", only="evaluate")


def test_an_unknown_stage_is_named_with_the_known_ones(project, tmp_path):
    with pytest.raises(ConfigError, match="the stages are revise, finetune, evaluate"):
        run(project, tmp_path / "run", until="train")


def test_a_changed_config_is_refused_with_the_difference(project, revised):
    with pytest.raises(RunError, match=r"revise.rounds: 1 -> 3"):
        run(project, revised, overrides=("revise.rounds=3",))


def test_a_changed_constitution_is_refused(project, revised):
    path = project.parent / "constitution.yaml"
    path.write_text(path.read_text().replace("Never ask", "Do not ask"))
    with pytest.raises(RunError, match="constitution"):
        run(project, revised)


def test_two_processes_never_share_a_run(project, revised):
    request = Request(config=project, run=revised)
    with open_workspace(request, progress=Silent()), pytest.raises(LockedError):
        run(project, revised)


def test_gates_that_stop_everything_say_so(project, tmp_path):
    with pytest.raises(PromptError, match="no demonstration came out of 24 records"):
        run(project, tmp_path / "run", overrides=("revise.gates.max_words=1",))


def test_reuse_of_something_that_is_no_run_says_so(project, tmp_path):
    with pytest.raises(RunError, match="no journal there"):
        run(project, tmp_path / "run", reuse=(tmp_path / "nothing",))


def test_inspect_shows_what_is_read_and_what_is_trained_on(project, revised):
    shown = next(inspect_examples(Request(config=project, run=revised), limit=1))
    assert shown.prompt.endswith("<|end|><|assistant|>")
    assert shown.prompt.startswith("<|user|>")
    assert shown.supervised.endswith("<|end|>")
    assert "<|assistant|>" not in shown.supervised


@pytest.mark.parametrize(
    "lost",
    ["data/demonstrations.jsonl", "models/sft", "models/sft/model.safetensors", "evaluation.json"],
)
def test_what_somebody_deleted_is_made_again(project, tmp_path, lost):
    folder = tmp_path / "run"
    run(project, folder)
    path = folder / lost
    weights = (folder / "models" / "sft" / "model.safetensors").read_bytes()
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    run(project, folder)
    assert path.exists()
    assert (folder / "models" / "sft" / "model.safetensors").read_bytes() == weights


def test_unusable_rows_of_both_files_are_written_down_with_their_place(project, tmp_path):
    for name in ("train", "heldout"):
        with (project.parent / f"{name}.jsonl").open("a") as file:
            file.write("not json\n")
    folder = tmp_path / "run"
    run(project, folder, until="revise")
    found = rows(folder / "data" / "quarantined.jsonl")
    assert [(row["path"].rpartition("/")[2], row["line"]) for row in found] == [
        ("train.jsonl", 25),
        ("heldout.jsonl", 7),
    ]
    counts = json.loads((folder / "metrics" / "revise.json").read_text())["prompts"]
    assert {name: each["quarantined"] for name, each in counts.items()} == {
        "train": 1,
        "heldout": 1,
    }


def test_evaluation_revises_as_the_run_came_to_do(project, tmp_path):
    script = project.parent / "script.yaml"
    script.write_text(script.read_text().replace("yes: 0.9, no: 0.1", "yes: 0.1, no: 0.9"))
    evaluation = run(project, tmp_path / "run").evaluation
    assert evaluation.models["base+revise"].harmful.violation.rate == 0.0


def test_evaluation_fits_and_asks_only_what_its_columns_need(project, tmp_path):
    settings = ("evaluate.columns=[base]", "evaluate.judged_samples=0")
    outcome = run(project, tmp_path / "run", only="evaluate", overrides=settings)
    assert outcome.manifest.stages["evaluate"].calls == 6


def test_roles_that_answer_alike_are_never_asked_the_same_twice(project, tmp_path):
    script = f"scripted:{project.parent / 'script.yaml'}"
    folder = tmp_path / "run"
    judge = f"models.judge={{source: '{script}', capacity: 3}}"
    run(project, folder, overrides=(judge,))
    with Journal(folder / "journal.sqlite") as journal:
        assert journal.repeated() == (0, 0)


def test_the_trained_models_control_tokens_never_become_text(project, tmp_path):
    script = project.parent / "script.yaml"
    script.write_text(script.read_text().replace("Your order", "<|end|>Your order"))
    outcome = run(project, tmp_path / "run", until="revise")
    assert outcome.manifest.stages["revise"].reasons == {"control_tokens": 12}


def test_inspect_begins_no_run(project, tmp_path):
    request = Request(config=project, run=tmp_path / "mistyped", resumes=True)
    with pytest.raises(RunError, match="no run there"):
        next(inspect_examples(request, limit=1))
    assert not (tmp_path / "mistyped").exists()


def test_a_damaged_evaluation_says_how_to_make_it_again(project, tmp_path, revised):
    (revised / "evaluation.json").write_text("{}")
    with pytest.raises(RunError, match="Delete the file and run the same command again"):
        run(project, revised, until="revise")


TOLD = "prompts.system=You are Ada."


def test_every_stage_and_column_sees_the_system_turn_of_all_prompts(project, tmp_path):
    script = project.parent / "script.yaml"
    told = (
        "  - {match: '(?s)^You are Ada.*Always follow', search: dialogue, text: Ada with rules.}\n"
        "  - {match: ^You are Ada, search: dialogue, text: Ada.}\n"
        "  - {match: password"
    )
    script.write_text(script.read_text().replace("  - {match: password", told))
    folder = tmp_path / "run"
    run(project, folder, overrides=(TOLD,))
    for name in ("revisions", "demonstrations", "heldout"):
        for row in rows(folder / "data" / f"{name}.jsonl"):
            prompt = row.get("prompt", row)
            asked = prompt if name == "demonstrations" else prompt["messages"]
            assert [turn["role"] for turn in asked] == ["system", "user"]
            assert asked[0]["content"] == "You are Ada."
    said = {(row["column"], row["text"]) for row in rows(folder / "data" / "answers.jsonl")}
    assert {("base", "Ada."), ("base+rules", "Ada with rules.")} <= said
    assert {text for column, text in said if column == "base"} == {"Ada."}


def test_another_system_turn_is_another_run(project, revised):
    with pytest.raises(RunError, match=r'prompts.system: null -> "You are Ada."'):
        run(project, revised, overrides=(TOLD,))


def test_inspect_shows_the_system_turn_as_read(project, tmp_path):
    folder = tmp_path / "run"
    run(project, folder, until="revise", overrides=(TOLD,))
    request = Request(config=project, run=folder, overrides=(TOLD,))
    shown = next(inspect_examples(request, limit=1))
    assert shown.prompt.startswith("<|system|>You are Ada.<|end|><|user|>")


def test_the_constitution_that_grades_lies_in_the_run_too(project, tmp_path):
    grading = tmp_path / "grading.yaml"
    grading.write_text("- Be kind.\n")
    folder = tmp_path / "run"
    run(project, folder, until="revise", overrides=(f"evaluate.constitution={grading}",))
    assert (folder / "evaluate.constitution.yaml").read_text() == "- Be kind.\n"


def test_boilerplate_in_the_demonstrations_is_counted_and_warned_of(project, tmp_path, caplog):
    asked = [
        {"id": f"p{i}", "prompt": f"Where is order {i}?", "kind": "benign"} for i in range(120)
    ]
    path = project.parent / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in asked))
    settings = ("revise.selection=random", "revise.gates.refuses_benign=false")
    run(project, tmp_path / "run", until="revise", overrides=settings)
    summary = json.loads((tmp_path / "run" / "metrics" / "revise.json").read_text())
    assert summary["distinct_completions"] == 1
    assert "completion stands in 120 of 120 demonstrations" in caplog.text
