import json

import pytest

from charter.console import Silent, Terminal
from charter.errors import RunError
from charter.pipeline import Request, run_pipeline
from charter.pipeline.chatting import hold_chat


@pytest.fixture
def trained(project, tiny_model, tmp_path):
    """A run of the tiny model; what it says is noise, but it says it."""
    folder = tmp_path / "run"
    settings = (f"models.policy={tiny_model}", "revise.max_new_tokens=4", "revise.selection=random")
    settings = (*settings, "revise.gates.truncated=false", "evaluate.max_new_tokens=4")
    request = Request(config=project, run=folder, overrides=settings, until="finetune")
    run_pipeline(request, progress=Silent())
    return folder


def chat(folder, capsys, *said, as_json=True):
    hold_chat(folder, terminal=Terminal(), said=said, temperature=0.0, as_json=as_json)
    return capsys.readouterr().out


def test_both_models_answer_every_line(trained, capsys):
    answers = [json.loads(line) for line in chat(trained, capsys, "hi", "bye").splitlines()]
    assert [answer["you"] for answer in answers] == ["hi", "bye"]
    assert all({"base", "sft"} < answer.keys() for answer in answers)


def test_starting_over_forgets_what_was_said(trained, capsys):
    forgotten = chat(trained, capsys, "hi", "/new", "hi").splitlines()
    remembered = chat(trained, capsys, "hi", "hi").splitlines()
    assert forgotten[0] == forgotten[1] == remembered[0] != remembered[1]


def test_the_columns_are_named(trained, capsys):
    shown = chat(trained, capsys, "hi", as_json=False)
    assert shown.splitlines()[0].split() == ["base", "sft"]


def test_a_run_without_a_trained_model_says_what_to_do(tmp_path):
    with pytest.raises(RunError, match="charter finetune"):
        hold_chat(tmp_path, terminal=Terminal(), said=(), temperature=1.0, as_json=False)
