import json
import sys

import pytest

from charter import cli
from charter.console import Silent
from charter.errors import PromptError, RunError
from charter.pipeline import Request, run_pipeline
from charter.pipeline.contrasting import contrast_runs

BANK = """
name: bank
principles:
  - {id: vowels, rule: Write no vowels., patterns: ['[aeiou]']}
  - {id: digits, rule: Write no digits., patterns: ['[0-9]']}
"""
FIGURES = ("evaluate.columns=[base, sft]", "evaluate.judged_samples=0", "evaluate.samples=3")


def run(project, folder, *overrides, until=None):
    request = Request(config=project, run=folder, overrides=(*FIGURES, *overrides), until=until)
    run_pipeline(request, progress=Silent())
    return folder


@pytest.fixture
def bank(tmp_path):
    """Another constitution, which the babble of a tiny model breaks now and then."""
    path = tmp_path / "bank.yaml"
    path.write_text(BANK)
    return path


@pytest.fixture
def shop_run(project, tmp_path):
    return run(project, tmp_path / "shop")


def say(folder, texts):
    """Lets the trained model of a run have said something else, by prompt id."""
    path = folder / "data" / "answers.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["column"] == "sft":
            row["text"] = texts.get(row["prompt_id"], row["text"])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def charter(monkeypatch, capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    monkeypatch.setattr(sys, "argv", ["charter", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "120")
    capsys.readouterr()  # what the runs before warned of
    code = cli._exit_code()
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def lines_of(contrast, label):
    (group,) = [group for group in contrast.groups if group.rules_of == label]
    return {line.name: line for line in group.lines}


def test_every_figure_is_what_an_evaluation_by_those_rules_would_give(
    project, tmp_path, shop_run, bank
):
    rules = f"constitution={bank}"
    other = run(project, tmp_path / "bank", rules, "finetune.lr=0.1", "revise.selection=random")
    found = contrast_runs(shop_run, other)
    assert (found.prompts, found.is_base_shared) == (6, True)
    by_shop = project.parent / "constitution.yaml"
    crossed = {
        ("shop", "first"): shop_run,
        ("shop", "second"): run(
            project, tmp_path / "c", rules, "finetune.lr=0.1", "revise.selection=random",
            f"evaluate.constitution={by_shop}",
        ),
        ("bank", "first"): run(project, tmp_path / "d", f"evaluate.constitution={bank}"),
        ("bank", "second"): other,
    }  # fmt: skip
    for (label, side), folder in crossed.items():
        figures = json.loads((folder / "evaluation.json").read_text())["models"]
        for name, line in lines_of(found, label).items():
            for column, rate in (("base", line.base), ("sft", getattr(line, side))):
                wanted = figures[column]["harmful"]["violation"]
                if name != "any rule":
                    wanted = figures[column]["principles"][name]["violation"]
                assert rate.model_dump() == wanted, (label, side, name, column)
    rates = [line.first.rate for line in lines_of(found, "bank").values()]
    assert any(0.0 < rate < 1.0 for rate in rates)


def test_the_command_prints_a_row_for_each_rule_and_what_sets_the_models_apart(
    monkeypatch, capsys, project, tmp_path, shop_run, bank
):
    other = run(project, tmp_path / "bank", f"constitution={bank}")
    say(shop_run, {f"heldout-{i}": "b" for i in range(6)})
    say(other, {**{f"heldout-{i}": "What is your SSN?" for i in range(5)}, "heldout-5": "No."})
    code, out, err = charter(monkeypatch, capsys, "diff", shop_run, other)
    assert (code, err) == (0, "")
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "ssn 3 100 % (14-100) 0.0 % (0-86) 100 % (14-100) +100" in rows
    assert "digits 3 0.0 % (0-86) 0.0 % (0-86) 0.0 % (0-86) +0" in rows
    assert rows.index("rules of shop broken \u2193") < rows.index("rules of bank broken \u2193")
    assert "bank breaks shop's rule ssn, shop keeps it (heldout-0)" in out
    assert "I lost my password 900." in out
    assert "Answers of sft to shared prompts" in out
    assert (
        "--column rl" in charter(monkeypatch, capsys, "diff", shop_run, other, "--column", "rl")[2]
    )
    assert "Both answered 6 prompts, of 6 and 6." in out


def test_machines_get_all_figures(monkeypatch, capsys, shop_run):
    code, out, _ = charter(monkeypatch, capsys, "diff", shop_run, shop_run, "--json")
    found = json.loads(out)
    assert (code, found["prompts"]) == (0, 6)
    assert [found["first"]["label"], found["second"]["label"]] == ["A", "B"]
    any_rule, ssn = found["groups"][0]["lines"]
    assert (any_rule["base"]["rate"], ssn["base"]["rate"]) == (1.0, 1.0)
    assert ssn["difference"]["difference"] == 0.0
    assert found["examples"] == []


def test_long_or_equal_names_of_folders_become_letters(project, tmp_path, shop_run):
    (tmp_path / "other").mkdir()
    other = shop_run.rename(tmp_path / "other" / "a-name-that-no-column-has-room-for")
    assert contrast_runs(other, other).first.label == "A"
    run(project, tmp_path / "shop")
    assert contrast_runs(tmp_path / "shop", other).second.label == "B"


def test_the_files_that_a_run_was_made_from_are_not_needed(project, shop_run):
    for path in [*project.parent.glob("*.yaml"), *project.parent.glob("*.jsonl")]:
        path.unlink()
    assert contrast_runs(shop_run, shop_run).prompts == 6


def test_what_is_no_run_is_named_with_what_to_do(tmp_path, shop_run):
    with pytest.raises(RunError, match=r"nothing: no run there\. Name the directory of a finished"):
        contrast_runs(shop_run, tmp_path / "nothing")
    with pytest.raises(RunError, match="bank: no run there"):
        contrast_runs(tmp_path / "bank", shop_run)


def test_a_run_that_is_not_evaluated_says_which_command_to_run(project, tmp_path, shop_run):
    half = run(project, tmp_path / "half", until="revise")
    command = rf"Run `charter run {half}/config.yaml --run {half}` first"
    with pytest.raises(RunError, match=command):
        contrast_runs(shop_run, half)


def test_the_command_that_an_error_names_mends_the_run(monkeypatch, capsys, tmp_path, shop_run):
    (shop_run / "data" / "heldout.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match=r"heldout.jsonl:1: cannot be read: .* Delete the file"):
        contrast_runs(shop_run, shop_run)
    (shop_run / "data" / "heldout.jsonl").unlink()
    code, *_ = charter(
        monkeypatch, capsys, "run", shop_run / "config.yaml", "--run", shop_run, "--json"
    )
    assert code == 0
    assert contrast_runs(shop_run, shop_run).prompts == 6


def test_a_run_without_a_trained_models_answers_says_how_to_get_them(project, tmp_path, shop_run):
    base = run(project, tmp_path / "base", "evaluate.columns=[base]", until="evaluate")
    with pytest.raises(RunError, match=r"no trained model's .* `evaluate.columns` \(--run NEW"):
        contrast_runs(base, shop_run)


def test_models_that_were_told_other_things_answered_no_common_prompt(project, tmp_path, shop_run):
    told = run(project, tmp_path / "told", "prompts.system=You are Ada.")
    with pytest.raises(PromptError, match=r"none with the same messages.* `prompts.system`"):
        contrast_runs(shop_run, told)
