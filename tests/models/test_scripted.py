import asyncio
import math
import subprocess
import sys
import time

import pytest

from charter.errors import BackendError, ConfigError, JudgementError
from charter.models.scripted import Reply, Rule, Script, ScriptedModel, read_script
from charter.records import Sampling, assistant, user

SCRIPT = """
rules:
  - match: (?i)social security
    text: Please tell me your SSN.
  - match: Answer yes or no
    choices: {yes: 0.9, no: 0.1}
  - match: teapot
    fails: the server is a teapot
  - match: first turn
    search: dialogue
    text: I remember.
    finish: length
  - match: nothing
    text: ""
default:
  text: How can I help?
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "script.yaml"
    path.write_text(SCRIPT)
    return ScriptedModel(read_script(path), capacity=3)


def say(model, *contents):
    turns = [user(text) if i % 2 == 0 else assistant(text) for i, text in enumerate(contents)]
    return asyncio.run(model.generate(tuple(turns), sampling=Sampling(), seed=0))


def choose(model, content, choices=("yes", "no")):
    return asyncio.run(model.choose((user(content),), choices=choices))


def read(tmp_path, text):
    path = tmp_path / "script.yaml"
    path.write_text(text)
    return read_script(path)


def test_the_first_rule_that_matches_the_last_message_answers(model):
    assert say(model, "My Social Security number?").text == "Please tell me your SSN."
    assert say(model, "Hello").text == "How can I help?"
    assert say(model, "social security", "Well?", "Hello").text == "How can I help?"


def test_a_rule_may_search_the_whole_dialogue(model):
    answer = say(model, "the first turn", "Yes?", "the last")
    assert (answer.text, answer.finish) == ("I remember.", "length")


def test_a_script_may_answer_nothing_at_all(model):
    assert say(model, "nothing").text == ""


def test_words_are_counted_as_tokens(model):
    usage = say(model, "one two", "three", "four").usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (4, 4)


def test_choices_get_the_scripts_log_probabilities_in_the_order_asked(model):
    chosen = choose(model, "Broken? Answer yes or no.", choices=("no", "yes"))
    assert chosen == {"no": math.log(0.1), "yes": math.log(0.9)}
    assert list(chosen) == ["no", "yes"]


def test_a_rule_without_the_kind_of_answer_asked_for_is_passed_over(model):
    assert say(model, "Answer yes or no").text == "How can I help?"


def test_a_choice_the_script_does_not_know_is_an_error_not_a_guess(model):
    with pytest.raises(JudgementError, match="no probability to choice maybe, only to yes, no"):
        choose(model, "Answer yes or no", choices=("yes", "maybe"))


def test_a_message_that_no_rule_answers_is_named(model):
    with pytest.raises(BackendError, match=r"no choices for the message 'Hello'\. Add a rule"):
        choose(model, "Hello")
    with pytest.raises(BackendError, match=r"'x{80}\.\.\.'"):
        say(ScriptedModel(Script()), "x" * 100)


def test_a_rule_may_fail_whatever_is_asked(model):
    for ask in (say, choose):
        with pytest.raises(BackendError, match="the server is a teapot"):
            ask(model, "teapot")


def test_calls_are_counted_failures_included(model):
    say(model, "Hello")
    choose(model, "Answer yes or no")
    with pytest.raises(BackendError):
        say(model, "teapot")
    assert model.calls == 3


def test_a_reply_may_take_its_time():
    slow = ScriptedModel(Script(default=Reply(text="late", latency_s=0.05)))
    began = time.monotonic()
    say(slow, "Hello")
    assert time.monotonic() - began >= 0.05


def test_the_fingerprint_is_that_of_the_script():
    one, same = (ScriptedModel(Script(rules=(Rule(match="a", text="b"),))) for _ in range(2))
    other = ScriptedModel(Script(rules=(Rule(match="a", text="c"),)))
    assert one.fingerprint == same.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules:\n  - match: '('\n    text: x\n", r"script\.yaml:2:5: .*not a regular expression"),
        ("rules:\n  - match: a\n    choices: {yes: 1.5}\n", r"yaml:3:5: .*'yes' must be in \(0, 1"),
        (
            "rules:\n  - match: a\n    txet: x\n",
            r"yaml:3:5: unknown key `txet`; did you mean `text`",
        ),
        ("rules:\n  - text: a\n", r"yaml:2:5: `match` is missing"),
        ("rules: [\n", r"script\.yaml:\d+:\d+: not valid YAML"),
        ("default:\n  text: !!python/name:os.system x\n", r"the tag .* is not allowed"),
    ],
)
def test_a_mistake_in_a_script_is_told_with_its_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_model_text_is_a_value_never_a_template():
    model = ScriptedModel(Script(rules=(Rule(match="(name)", text=r"{{ 7 * 7 }} \1 {0}"),)))
    assert say(model, "name").text == r"{{ 7 * 7 }} \1 {0}"


def test_a_script_needs_no_torch():
    code = "import charter.models.sources, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
