import json
import shutil
import signal

import pytest

from charter.console import Silent, Terminal
from charter.errors import ConfigError, RunError
from charter.pipeline import Request, run_pipeline
from charter.pipeline.chatting import hold_chat


@pytest.fixture
def trained(project, tmp_path):
    """A run whose base is a script that notices a second greeting."""
    script = project.parent / "script.yaml"
    noticing = "rules:\n  - {match: '(?s)hello.*hello', search: dialogue, text: Again?}"
    script.write_text(script.read_text().replace("rules:", noticing))
    folder = tmp_path / "run"
    run_pipeline(Request(config=project, run=folder, until="finetune"), progress=Silent())
    return folder


def chat(folder, capsys, *said, columns=(), as_json=True):
    hold_chat(
        folder,
        terminal=Terminal(),
        said=said,
        columns=columns,
        temperature=0.0,
        as_json=as_json,
    )
    return capsys.readouterr().out


def test_both_models_answer_every_line(trained, capsys):
    first, second = chat(trained, capsys, "hello", "hello").splitlines()
    assert json.loads(first)["base"] == "Your order is on its way."
    assert json.loads(second)["base"] == "Again?"
    assert "sft" in json.loads(first)


def test_starting_over_forgets_what_was_said(trained, capsys):
    first, second = chat(trained, capsys, "hello", "/new", "hello").splitlines()
    assert first == second


def test_both_models_are_told_what_all_prompts_are(project, tmp_path, capsys):
    script = project.parent / "script.yaml"
    told = "  - {match: ^You are Ada, search: dialogue, text: Ada.}\n  - {match: password"
    script.write_text(script.read_text().replace("  - {match: password", told))
    folder = tmp_path / "run"
    overrides = ("prompts.system=You are Ada.", "revise.selection=random")
    request = Request(config=project, run=folder, overrides=overrides, until="finetune")
    run_pipeline(request, progress=Silent())
    assert json.loads(chat(folder, capsys, "hello"))["base"] == "Ada."


def test_the_columns_are_named(trained, capsys):
    shown = chat(trained, capsys, "hi", as_json=False)
    assert shown.splitlines()[0].split() == ["base", "sft"]


@pytest.fixture
def reinforced(trained):
    """The same with an RL model, which any will do for, and one that somebody deleted."""
    shutil.copytree(trained / "models" / "sft", trained / "models" / "rl")
    (trained / "models" / "dpo").mkdir()
    return trained


def test_every_trained_model_answers_beside_the_base(reinforced, capsys):
    said = json.loads(chat(reinforced, capsys, "hello"))
    assert list(said) == ["you", "base", "sft", "rl"]
    assert said["rl"] == said["sft"]


def test_only_models_that_are_named_answer(reinforced, capsys):
    assert list(json.loads(chat(reinforced, capsys, "hi", columns=("rl",)))) == ["you", "rl"]
    with pytest.raises(ConfigError, match=r"--column dpo: .* it has base, sft, rl"):
        chat(reinforced, capsys, "hi", columns=("rl", "dpo"))


def test_a_run_without_a_trained_model_says_what_to_do(tmp_path):
    with pytest.raises(RunError, match="charter finetune"):
        hold_chat(tmp_path, terminal=Terminal(), said=(), temperature=1.0, as_json=False)


class Interrupted(Terminal):
    """A terminal whose user presses Ctrl-C at the prompt."""

    def __init__(self):
        super().__init__()
        self.went_on = False

    def ask(self, _prompt):
        signal.raise_signal(signal.SIGINT)
        self.went_on = True
        return "hello"


def test_one_interruption_at_the_prompt_ends_the_conversation(trained):
    terminal = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        hold_chat(trained, terminal=terminal, said=None, temperature=0.0, as_json=False)
    assert not terminal.went_on
