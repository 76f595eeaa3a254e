import errno
import json
import os
import subprocess
import sys

import pytest

from charter import cli
from charter.config import load_config
from charter.errors import (
    CharterError,
    ConfigError,
    FailureLimitError,
    GuardError,
    LockedError,
    RunError,
)
from charter.project import DEMO_CONFIG


def charter(monkeypatch, capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    monkeypatch.setattr(sys, "argv", ["charter", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    code = cli._exit_code()
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_names_every_command(monkeypatch, capsys):
    code, out, _ = charter(monkeypatch, capsys, "--help")
    assert code == 0
    for command in (
        "init", "check", "demo", "run", "revise", "finetune", "compare", "evaluate",
        "inspect", "chat", "diff", "report",
    ):  # fmt: skip
        assert f"\n  {command} " in out


@pytest.mark.parametrize(
    "command", ["init", "check", "demo", "run", "revise", "compare", "inspect", "diff", "report"]
)
def test_every_command_shows_an_example(monkeypatch, capsys, command):
    code, out, _ = charter(monkeypatch, capsys, command, "--help")
    assert code == 0
    assert f"Example: charter {command}" in out


def test_help_marks_what_may_be_left_out_once_and_says_which_run_must_be_there(monkeypatch, capsys):
    _, shown, _ = charter(monkeypatch, capsys, "inspect", "--help")
    assert "[OPTIONS] [CONFIG]\n" in shown
    assert "it must be there" in shown
    assert "made, or resumed" in charter(monkeypatch, capsys, "run", "--help")[1]


def test_help_and_check_load_nothing_heavy():
    program = (
        "import sys; sys.argv = ['charter', 'check', sys.argv[1]]; from charter import cli; "
        "code = cli._exit_code(); "
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'scipy'} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(DEMO_CONFIG)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_init_writes_a_project_that_checks_out_and_overwrites_nothing(
    monkeypatch, capsys, tmp_path
):
    project = tmp_path / "bot"
    assert charter(monkeypatch, capsys, "init", project)[0] == 0
    code, out, _ = charter(monkeypatch, capsys, "check", project / "charter.yaml")
    assert (code, "all good" in out) == (0, True)
    code, _, err = charter(monkeypatch, capsys, "init", project)
    assert code == 2
    assert "already there. Choose another folder" in err


def test_init_below_a_file_is_the_users_to_mend(monkeypatch, capsys, tmp_path):
    (tmp_path / "taken").write_text("a file")
    code, _, err = charter(monkeypatch, capsys, "init", tmp_path / "taken")
    assert code == 2
    assert "no project can be written there" in err
    assert "Choose another folder" in err


def test_findings_cannot_drive_the_terminal(monkeypatch, capsys, project):
    rules = project.parent / "constitution.yaml"
    rules.write_text(rules.read_text().replace("name: support", r'name: "\e[2Jsupport"'))
    code, out, _ = charter(monkeypatch, capsys, "check", project)
    assert code == 0
    assert "\ufffd[2Jsupport" in out


def test_a_pipe_that_nobody_reads_ends_the_command_in_silence():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        program = "from charter.cli import main; main()"
        command = [sys.executable, "-c", program, "check", str(DEMO_CONFIG), "--json"]
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert done.stderr == ""


def test_check_reports_every_file_at_once(monkeypatch, capsys, project):
    (project.parent / "constitution.yaml").write_text("principles: []\n")
    (project.parent / "train.jsonl").write_text('{"prompt": "Hi"}\nnot json\n')
    code, _, err = charter(monkeypatch, capsys, "check", project)
    assert code == 2
    assert "constitution.yaml:1:1: `principles` is empty" in err
    assert "train.jsonl:2: not JSON" in err


def test_check_tells_machines_too(monkeypatch, capsys, project):
    code, out, _ = charter(monkeypatch, capsys, "check", project, "--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (0, True)
    assert report["prompts"]["train"] == {"valid": 24, "quarantined": 0, "duplicates": 0}


def test_check_looks_for_models_that_are_files(monkeypatch, capsys, project):
    code, _, err = charter(
        monkeypatch, capsys, "check", project, "--set", "models.judge=/no/such/model"
    )
    assert code == 2
    assert "models.judge: /no/such/model: no such file or directory" in err


def test_run_prints_the_table_and_where_everything_is(monkeypatch, capsys, project, tmp_path):
    code, out, err = charter(monkeypatch, capsys, "run", project, "--run", tmp_path / "run")
    assert code == 0
    assert "a rule broken" in out
    assert "revise" in out
    assert f"Everything is in {tmp_path / 'run'}/" in err
    assert "evaluation.json" in err


def test_json_is_the_only_thing_on_stdout(monkeypatch, capsys, project, tmp_path):
    code, out, err = charter(
        monkeypatch, capsys, "run", project, "--run", tmp_path / "run", "--json"
    )
    assert code == 0
    assert json.loads(out)["manifest"]["stages"]["revise"]["in"] == 24
    assert "Everything" not in err


def test_the_stages_run_one_by_one(monkeypatch, capsys, project, tmp_path):
    folder = tmp_path / "run"
    for command in ("revise", "finetune", "evaluate"):
        assert charter(monkeypatch, capsys, command, project, "--run", folder)[0] == 0
    assert (folder / "evaluation.json").exists()


def test_inspect_prints_the_mask(monkeypatch, capsys, project, tmp_path):
    folder = tmp_path / "run"
    charter(monkeypatch, capsys, "revise", project, "--run", folder)
    code, out, _ = charter(
        monkeypatch, capsys, "inspect", project, "--run", folder, "--examples", "1"
    )
    assert code == 0
    assert "tokens read" in out
    assert "<|assistant|>" in out


def test_model_text_cannot_drive_the_terminal(monkeypatch, capsys, project, tmp_path):
    script = project.parent / "script.yaml"
    said = script.read_text().replace("'Your order is on its way.'", r'"[red]\e[2JYour order."')
    script.write_text(said)
    folder = tmp_path / "run"
    assert charter(monkeypatch, capsys, "revise", project, "--run", folder)[0] == 0
    _, out, _ = charter(
        monkeypatch, capsys, "inspect", project, "--run", folder, "--examples", "30"
    )
    assert "[red]\ufffd[2JYour" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CharterError("x"), 1),
        (ConfigError("x"), 2),
        (FailureLimitError("x"), 3),
        (LockedError("x"), 4),
        (RunError("x"), 5),
        (MemoryError("x"), 5),
        (OSError(errno.ENOSPC, "x"), 5),
        (PermissionError(errno.EACCES, "x"), 5),
        (GuardError("x"), 6),
        (KeyboardInterrupt(), 130),
    ],
)
def test_the_exit_code_says_whose_it_is_to_fix(monkeypatch, capsys, tmp_path, error, code):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("charter.project.init_project", fail)
    assert charter(monkeypatch, capsys, "init", tmp_path)[0] == code


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (MemoryError(), "out of memory. Free some disk or memory"),
        (OSError(errno.ENOSPC, "No space left"), "Free some disk or memory"),
        (OSError(errno.EIO, "Input/output error"), "Free some disk or memory"),
        (PermissionError(errno.EACCES, "Permission denied", "a.txt"), "Mend the path or its perm"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.txt"), "Mend the path or its perm"),
    ],
)
def test_an_error_of_the_system_has_a_remedy_that_fits(
    monkeypatch, capsys, tmp_path, error, remedy
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("charter.project.init_project", fail)
    assert remedy in charter(monkeypatch, capsys, "init", tmp_path)[2]


@pytest.mark.parametrize(
    ("command", "target", "resumes"),
    [
        ("run", "charter.pipeline.run_pipeline", True),
        ("chat", "charter.pipeline.chatting.hold_chat", False),
    ],
)
def test_an_interrupted_command_says_that_it_resumes_where_it_does(
    monkeypatch, capsys, command, target, resumes
):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(target, interrupt)
    code, _, err = charter(monkeypatch, capsys, command, "anything")
    assert (code, "the same command resumes" in err) == (130, resumes)


def test_a_wrong_flag_is_the_users_and_says_what_is_known(monkeypatch, capsys):
    code, _, err = charter(monkeypatch, capsys, "run", "--nonsense")
    assert code == 2
    assert "--nonsense" in err


def test_too_many_failures_end_with_what_failed(monkeypatch, capsys, project, tmp_path):
    script = project.parent / "script.yaml"
    script.write_text(script.read_text().replace("text: What is your SSN?", "fails: server down"))
    code, _, err = charter(monkeypatch, capsys, "revise", project, "--run", tmp_path / "run")
    assert code == 3
    assert "12 of 24 records failed (BackendError 12)" in err
    assert "server down" in err


def test_the_demo_configuration_is_the_one_that_init_writes():
    assert load_config(DEMO_CONFIG).models.policy.source == "starter"


def test_report_says_where_the_page_is(monkeypatch, capsys, project, tmp_path):
    folder = tmp_path / "run"
    charter(monkeypatch, capsys, "revise", project, "--run", folder)
    (folder / "report.html").unlink()
    code, out, _ = charter(monkeypatch, capsys, "report", folder)
    assert (code, out.strip()) == (0, str(folder / "report.html"))
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    code, _, err = charter(monkeypatch, capsys, "report", tmp_path / "nothing")
    assert (code, "no run there" in err) == (5, True)
