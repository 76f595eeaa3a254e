import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.config import GatesConfig
from charter.supervised.gates import GATES, Candidate, repetition, same_text, stopped_by

GATES_CONFIG = GatesConfig(max_words=12)
OFF = GatesConfig(
    empty=False,
    truncated=False,
    max_words=None,
    leaked_wording=False,
    control_tokens=False,
    unchanged=False,
    refuses_benign=False,
    max_repetition=None,
)
FAULTY = ("Tell me your card number.",)


def candidate(text, finish="stop", mends=FAULTY, control_tokens=(), kind="harmful"):
    return Candidate(
        text=text, finish=finish, mends=mends, control_tokens=control_tokens, kind=kind
    )


def reason(text, **rest):
    return stopped_by(candidate(text, **rest), gates=GATES_CONFIG)


STOPPED = {
    "empty": candidate(" \n\u200b..."),
    "truncated": candidate("I can help you with", finish="length"),
    "too_long": candidate("one two three four five six seven eight nine ten eleven twelve more"),
    "leaked_wording": candidate("Sure! Here is a revised response: please call us."),
    "control_tokens": candidate("Please call us.<|im_end|>"),
    "unchanged": candidate(" tell me  your card NUMBER."),
    "refuses_benign": candidate("I can't help with that.", kind="benign"),
    "repetition": candidate("call us now call us now call us now"),
}
LET_THROUGH = {
    "empty": candidate("\N{THUMBS UP SIGN}"),
    "truncated": candidate("I can help you with that."),
    "too_long": candidate("one two three four five six seven eight nine ten eleven twelve"),
    "leaked_wording": candidate("Sure! Here is the refund form: please call us."),
    "control_tokens": candidate("a < b | c > d, see [1]"),
    "unchanged": candidate("Tell me your order number."),
    "refuses_benign": candidate("I can't help with that."),
    "repetition": candidate("call us now or call us later"),
}


def test_every_gate_is_shown_at_work():
    assert [name for name, _ in GATES] == list(STOPPED) == list(LET_THROUGH)


@pytest.mark.parametrize("name", STOPPED)
def test_a_gate_stops_what_it_is_for(name):
    assert stopped_by(STOPPED[name], gates=GATES_CONFIG) == name


@pytest.mark.parametrize("name", LET_THROUGH)
def test_a_gate_lets_through_what_only_looks_like_it(name):
    assert stopped_by(LET_THROUGH[name], gates=GATES_CONFIG) is None


@pytest.mark.parametrize("name", STOPPED)
def test_a_gate_can_be_turned_off(name):
    assert stopped_by(STOPPED[name], gates=OFF) is None


@pytest.mark.parametrize(
    "text",
    [
        "My revised reply: call us.",
        "Here\u2019s a rewritten version: call us.",
        "Here is a safer answer: call us.",
        "As requested, I have reworded it. Call us.",
        "I apologise for my previous message.",
        "I apologize for the earlier tone.",
        "Sorry about my last answer!",
        "In my original response I asked for too much.",
        "The assistant's last response asks for a card number.",
        "The previous reply is harmful, as it asks for data.",
        "This reply violates the privacy rule.",
        "It would break this principle to say so.",
        "Rewrite your last reply, keeping the rule.",
        "**Critique:** it asks for data.",
        "Call us.\nRevision: call us now.",
        "RevisionRequest: be kind.",
        "No problem.",
    ],
)
def test_the_words_of_the_method_do_not_leak(text):
    assert reason(text) == "leaked_wording"


@pytest.mark.parametrize(
    "text",
    [
        "Here is a revised version of your letter: Dear Sir.",
        "I apologise for the inconvenience.",
        "I apologise for the previous delay.",
        "The answer is 42.",
        "We follow the principle of least privilege.",
        "Revision: 2.1 of the manual.",
        "The response time is two days.",
        "No problem, I am happy to help!",
        "Critique is welcome here.",
    ],
)
def test_ordinary_answers_are_no_leak(text):
    assert reason(text) is None


def test_no_problem_is_an_answer_where_no_fault_was_found():
    assert reason("No problem.", mends=()) is None


@pytest.mark.parametrize(
    "text",
    ["a</s>", "[INST] a", "<start_of_turn>a", "<|eot_id|>", "a<\uff5cend\u2581\uff5c>", "[PAD]"],
)
def test_control_tokens_of_the_usual_templates_are_known(text):
    assert reason(text) == "control_tokens"


def test_control_tokens_of_the_model_to_be_trained_are_stopped():
    assert reason("Done <end>", control_tokens=("<end>",)) == "control_tokens"
    assert reason("Done <end>") is None


def test_a_version_that_was_already_at_fault_is_unchanged():
    assert reason("Tell me your card number.", mends=(*FAULTY, "Your SSN?")) == "unchanged"


def test_a_kept_response_is_not_unchanged():
    assert reason("Tell me your order number.", mends=()) is None


@pytest.mark.parametrize("text", ["ha " * 8, "n" * 16, "go " + "o" * 16])
def test_loops_of_a_word_or_a_letter_are_repetition(text):
    assert reason(text) == "repetition"


@given(text=st.text())
def test_repetition_is_a_share(text):
    assert 0.0 <= repetition(text) < 1.0


@given(text=st.text())
def test_saying_it_twice_repeats_more(text):
    assert repetition(f"{text} {text}") >= repetition(text)


@given(text=st.text())
def test_a_text_is_the_same_with_other_spacing(text):
    assert same_text(f" {text}\n", text)


@given(text=st.text(), finish=st.sampled_from(["stop", "length"]))
def test_the_reason_is_that_of_the_first_gate(text, finish):
    item = candidate(text, finish=finish)
    stopping = [name for name, stops in GATES if stops(item, GATES_CONFIG)]
    assert stopped_by(item, gates=GATES_CONFIG) == next(iter(stopping), None)


@pytest.mark.parametrize("piece", ["\n", " ", "*", "a ", "no ", "my previous ", "<|", "here is a "])
def test_hostile_text_is_judged_in_linear_time(piece):
    """A quadratic pattern would take minutes here."""
    stopped_by(candidate(piece * 50_000), gates=GatesConfig(max_words=None, max_repetition=None))
