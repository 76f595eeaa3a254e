import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.config import GatesConfig, ReviseConfig
from charter.errors import RunError
from charter.records import Completion, Prompt, Revision, Round, assistant, user
from charter.supervised.demonstrations import (
    Origin,
    demonstrations_of,
    read_demonstrations,
    without_near_duplicates,
)

ORIGIN = Origin(seed=7, policy="the-policy", reviser="the-reviser", constitution="c0ffee")
LAST, ALL = ReviseConfig(train_on="last"), ReviseConfig(train_on="all")


def kept(number, text, outcome="screened"):
    return Round(number=number, outcome=outcome, revision=text)


def revised(number, text, principle="privacy", finish="stop"):
    return Round(
        number=number, outcome="revised", principle_ids=(principle,), revision=text, finish=finish
    )


def revision(*rounds, response="Your SSN?", prompt_id="p", finish="stop"):
    prompt = Prompt(id=prompt_id, messages=(user("I forgot my password."),), kind="benign")
    return Revision(prompt=prompt, response=Completion(text=response, finish=finish), rounds=rounds)


def select(item, section=LAST):
    return demonstrations_of(item, section=section, origin=ORIGIN)


def completions(selection):
    return [item.completion[0].content for item in selection.demonstrations]


def test_the_last_revision_is_demonstrated_with_its_provenance():
    item = revision(revised(1, "Your PIN?"), revised(2, " Your order number?\n", "honesty"))
    selection = select(item)
    (demonstration,) = selection.demonstrations
    assert demonstration.completion == (assistant("Your order number?"),)
    assert demonstration.prompt == item.prompt.messages
    provenance = demonstration.provenance
    assert (provenance.prompt_id, provenance.kind, provenance.round) == ("p", "benign", 2)
    assert provenance.principle_ids == ("privacy", "honesty")
    assert (provenance.seed, provenance.model, provenance.constitution) == (
        7,
        "the-reviser",
        "c0ffee",
    )


def test_a_response_without_fault_is_kept_as_the_policy_wrote_it():
    text = "Your order number?"
    item = revision(kept(1, text), kept(2, text, "no_fault"), response=text)
    for section in (LAST, ALL):
        selection = select(item, section)
        assert completions(selection) == [text]
        assert selection.demonstrations[0].provenance.round == 0
        assert selection.demonstrations[0].provenance.model == "the-policy"
        assert selection.demonstrations[0].provenance.principle_ids == ()
        assert selection.pairs == ()


def test_a_kept_response_passes_the_gates_too():
    assert select(
        revision(kept(1, "You should"), response="You should", finish="length")
    ).filtered == ("truncated")


def test_a_revision_that_later_rounds_keep_is_demonstrated_from_its_own_round():
    selection = select(revision(revised(1, "Your order?"), kept(2, "Your order?")))
    assert [item.provenance.round for item in selection.demonstrations] == [1]


def test_a_version_known_to_be_faulty_is_never_fallen_back_to():
    item = revision(revised(1, "Your PIN?"), revised(2, "Your", finish="length"))
    selection = select(item)
    assert selection.demonstrations == selection.pairs == ()
    assert selection.filtered == "truncated"
    assert selection.stopped == {"truncated": 1}


def test_a_revision_that_returns_to_the_first_response_is_unchanged():
    item = revision(revised(1, "Your PIN?"), revised(2, "your ssn?"))
    assert select(item).filtered == "unchanged"


def test_all_revisions_that_pass_are_demonstrated_as_in_the_paper():
    item = revision(revised(1, "Your PIN?"), revised(2, ""), revised(3, "Your order?"))
    selection = select(item, ALL)
    assert completions(selection) == ["Your PIN?", "Your order?"]
    assert selection.stopped == {"empty": 1}
    assert selection.filtered is None
    assert [pair.chosen[0].content for pair in selection.pairs] == ["Your order?"]


def test_all_has_no_pair_where_the_last_revision_was_stopped():
    selection = select(revision(revised(1, "Your PIN?"), revised(2, "")), ALL)
    assert completions(selection) == ["Your PIN?"]
    assert selection.pairs == ()


def test_a_repeated_revision_is_demonstrated_once():
    section = ReviseConfig(train_on="all", gates=GatesConfig(unchanged=False))
    selection = select(revision(revised(1, "Your PIN?"), revised(2, "Your  PIN? ")), section)
    assert completions(selection) == ["Your PIN?"]
    assert selection.stopped == {"repeated": 1}


def test_a_pair_prefers_the_last_revision_to_the_first_response():
    (pair,) = select(revision(revised(1, "Your PIN?"), revised(2, "Your order?"))).pairs
    assert (pair.chosen, pair.rejected) == ((assistant("Your order?"),), (assistant("Your SSN?"),))


def test_control_tokens_of_the_trained_model_are_stopped():
    item = revision(revised(1, "Your order? <end>"))
    selection = demonstrations_of(item, section=LAST, origin=ORIGIN, control_tokens=("<end>",))
    assert selection.filtered == "control_tokens"


texts = st.sampled_from(["", "Your SSN?", "Your PIN?", "Your order?", "My revised reply."])


@st.composite
def revisions(draw, prompt_id="p"):
    response = current = draw(texts)
    rounds = []
    for number in range(1, draw(st.integers(0, 4)) + 1):
        outcome = draw(st.sampled_from(["revised", "screened", "inapplicable", "no_fault"]))
        current = draw(texts) if outcome == "revised" else current
        rounds.append(Round(number=number, outcome=outcome, revision=current))
    return revision(*rounds, response=response, prompt_id=prompt_id)


@given(item=revisions(), section=st.sampled_from([LAST, ALL]))
def test_a_record_is_demonstrated_or_filtered_with_a_reason(item, section):
    selection = select(item, section)
    assert bool(selection.demonstrations) == (selection.filtered is None)
    changes = sum(step.outcome == "revised" for step in item.rounds)
    candidates = 1 if section is LAST else max(1, changes)
    assert len(selection.demonstrations) + sum(selection.stopped.values()) == candidates
    assert selection.filtered is None or selection.filtered in selection.stopped


@given(item=revisions())
def test_last_demonstrates_only_what_no_round_found_fault_with(item):
    faulty, current = set(), item.response.text
    for step in item.rounds:
        if step.outcome == "revised":
            faulty.add(current)
        current = step.revision
    assert not faulty & set(completions(select(item)))


@given(item=revisions())
def test_what_last_demonstrates_all_does_too(item):
    assert set(completions(select(item))) <= set(completions(select(item, ALL)))


def test_a_near_duplicate_of_an_earlier_demonstration_is_stopped():
    first = select(revision(revised(1, "Please tell me your order number."), prompt_id="a"))
    second = select(revision(revised(1, "Please tell me your order number!"), prompt_id="b"))
    third = select(revision(revised(1, "Call us on Monday, then."), prompt_id="c"))
    selections = [first, second, third]
    kept_first, stopped, kept_third = without_near_duplicates(selections, threshold=0.9)
    assert (kept_first, kept_third) == (first, third)
    assert stopped.demonstrations == stopped.pairs == ()
    assert (stopped.filtered, stopped.stopped) == ("near_duplicate", {"near_duplicate": 1})
    assert without_near_duplicates(selections, threshold=None) == selections


@given(items=st.lists(revisions(), max_size=5))
def test_near_duplicates_leave_no_record_unaccounted(items):
    selections = [select(item, ALL) for item in items]
    after = without_near_duplicates(selections, threshold=0.7)
    for old, new in zip(selections, after, strict=True):
        assert bool(new.demonstrations) == (new.filtered is None)
        total = len(old.demonstrations) + sum(old.stopped.values())
        assert len(new.demonstrations) + sum(new.stopped.values()) == total


def test_demonstrations_round_trip_through_jsonl(tmp_path):
    path = tmp_path / "demonstrations.jsonl"
    item = revision(revised(1, "Your\u2028order?\r\n\N{THUMBS UP SIGN} now"))
    written = [*select(item).demonstrations] * 2
    path.write_bytes(b"".join(row.model_dump_json().encode() + b"\n" for row in written))
    assert list(read_demonstrations(path)) == written


def test_rows_have_the_form_that_trl_trains_on():
    row = select(revision(revised(1, "Your order?"))).demonstrations[0].model_dump(mode="json")
    assert row["prompt"] == [{"role": "user", "content": "I forgot my password."}]
    assert row["completion"] == [{"role": "assistant", "content": "Your order?"}]


def test_a_line_that_is_no_demonstration_is_named(tmp_path):
    path = tmp_path / "demonstrations.jsonl"
    path.write_text('{"id": "x"}\n')
    with pytest.raises(RunError, match=r"jsonl:1: not a demonstration: Field required"):
        list(read_demonstrations(path))


def test_missing_demonstrations_say_which_stage_writes_them(tmp_path):
    with pytest.raises(RunError, match="Run `charter revise` first"):
        list(read_demonstrations(tmp_path / "none.jsonl"))
