import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.config import PromptSource
from charter.prompts.row import prompt_of, reason_for

SOURCE = PromptSource(path="prompts.jsonl", kind="borderline", tags=("from-the-source",))
HI = {"role": "user", "content": "Hi"}


def read(row):
    return prompt_of(json.dumps(row).encode(), source=SOURCE)


def complaint(line):
    raw = line if isinstance(line, bytes) else json.dumps(line).encode()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the reason is what is tested)
        prompt_of(raw, source=SOURCE)
    return reason_for(caught.value)


def turns(row):
    return [(message.role, message.content) for message in read(row).messages]


def test_a_text_is_one_turn_of_the_user():
    assert turns({"prompt": "Where is my order?\n"}) == [("user", "Where is my order?\n")]


def test_turns_may_stand_under_messages_or_prompt():
    dialogue = [{"role": "system", "content": "Be brief."}, HI]
    assert (
        turns({"messages": dialogue})
        == turns({"prompt": dialogue})
        == turns({"prompt": "Hi", "system": "Be brief."})
    )


def test_what_else_a_turn_holds_is_left_out():
    assert turns({"messages": [{**HI, "weight": 1}]}) == [("user", "Hi")]


def test_a_transcript_is_a_prompt_up_to_the_last_human_turn():
    text = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Pens?\n\nAssistant: No, sorry!"
    expected = [("user", "Hi"), ("assistant", "Hello."), ("user", "Pens?")]
    for key in ("transcript", "chosen", "rejected"):
        assert turns({key: text}) == expected


def test_a_prompt_that_waits_for_the_assistant_is_a_transcript():
    assert turns({"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " Yes."}) == [("user", "Hi")]


def test_a_single_turn_that_begins_like_a_transcript_stays_as_it_is():
    assert turns({"prompt": "\n\nHuman: Hi"}) == [("user", "\n\nHuman: Hi")]


def test_a_conversational_preference_gives_its_prompt():
    assert turns({"chosen": [HI, {"role": "assistant", "content": "Hello."}]}) == [("user", "Hi")]


def test_turns_of_one_speaker_in_a_row_become_one():
    text = "\n\nHuman: a\n\nAssistant: b\n\nAssistant: c\n\nHuman: d\n\nHuman:\n\nHuman: e"
    assert turns({"transcript": text}) == [
        ("user", "a"),
        ("assistant", "b\n\nc"),
        ("user", "d\n\ne"),
    ]


def test_a_speaker_named_within_a_turn_is_text():
    text = "\n\nHuman: Hi\n\nAssistant: Human: So?\nHuman: what\n\nHuman: Yes"
    assert turns({"transcript": text})[1] == ("assistant", "Human: So?\nHuman: what")


@given(
    spoken=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\n")).filter(str.strip),
        min_size=1,
    )
)
def test_transcripts_round_trip(spoken):
    speakers = [("Human", "user"), ("Assistant", "assistant")]
    spoken = spoken[: len(spoken) - 1 + len(spoken) % 2]
    text = "".join(f"\n\n{speakers[i % 2][0]}: {turn}" for i, turn in enumerate(spoken))
    expected = [(speakers[i % 2][1], turn.strip()) for i, turn in enumerate(spoken)]
    assert turns({"transcript": text}) == expected


def test_the_source_speaks_where_the_row_is_silent():
    silent, outspoken = read({"prompt": "Hi"}), read({"prompt": "Hi", "kind": "benign", "tags": []})
    assert (silent.kind, silent.tags) == ("borderline", ("from-the-source",))
    assert (outspoken.kind, outspoken.tags) == ("benign", ())


def test_null_is_no_value():
    assert read({"prompt": "Hi", "kind": None, "messages": None, "id": None}).kind == "borderline"


def test_a_single_tag_or_pattern_may_be_a_text():
    prompt = read({"prompt": "Hi", "tags": "billing", "expects": r"\d+"})
    assert (prompt.tags, prompt.expects) == (("billing",), (r"\d+",))


def test_an_id_is_kept_and_a_missing_one_made_from_the_messages():
    assert [read({"prompt": "Hi", "id": given_id}).id for given_id in ("a", 7)] == ["a", "7"]
    made = read({"prompt": "Hi"}).id
    assert made == read({"messages": [HI], "kind": "benign"}).id
    assert made != read({"prompt": "Hi!"}).id


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'{"prompt": "Hi"', "not JSON: Expecting ',' delimiter (column 16)"),
        (b'{"prompt": "\xff"}', "not UTF-8: byte 0xff at 13"),
        (b'{"prompt": NaN}', "NaN is no JSON value"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"id": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        ("Hi", "not a JSON object"),
        ({"question": "Hi"}, "none of the keys prompt, messages, transcript, chosen, rejected"),
        ({"prompt": "Hi", "expect": "x"}, "unknown key 'expect'; did you mean 'expects'?"),
        ({"prompt": "Hi", "kind": "evil"}, "kind: Input should be 'harmful', 'benign'"),
        ({"prompt": "Hi", "id": 1.5}, "id: must be a text or a whole number"),
        ({"prompt": "Hi", "id": ""}, "id: String should have at least 1 character"),
        ({"prompt": "Hi", "expects": ["("]}, "expects: '(' is no regular expression"),
        ({"prompt": "Hi", "expects": "a{99999999999}"}, "is no regular expression"),
        ({"prompt": "Hi", "tags": 3}, "tags: Input should be a valid tuple"),
        ({"prompt": 3}, "messages: Input should be a valid tuple"),
        ({"prompt": " "}, "turn 1 (user) is empty"),
        ({"prompt": "\ud83d"}, "a lone surrogate"),
        ({"prompt": "Hi", "system": 3}, "messages.0.content: Input should be a valid string"),
        ({"messages": []}, "messages: "),
        ({"messages": ["Hi"]}, "messages.0: "),
        ({"messages": [{"from": "human"}]}, "messages.0.role: Field required"),
        ({"messages": [{**HI, "role": "bot"}]}, "messages.0.role: Input should be 'system'"),
        ({"messages": [HI, HI]}, "user and assistant in turn, ending with user; got user, user"),
        ({"messages": [HI, {"role": "assistant", "content": "x"}]}, "ending with user"),
        ({"transcript": 3}, "transcript: must be a text"),
        ({"transcript": "Hi"}, "no turn in the transcript"),
        ({"transcript": "Rules.\n\nHuman: Hi"}, "the transcript does not begin with"),
        ({"transcript": "\n\nAssistant: Hi"}, "no turn of the user"),
        ({"transcript": "\n\nAssistant: a\n\nHuman: b"}, "got assistant, user"),
        ({"chosen": "\n\nHuman: \n\nAssistant: x"}, "turn 1 (user) is empty"),
    ],
)
def test_a_row_without_a_prompt_says_why(row, reason):
    assert reason in complaint(row)


@given(
    line=st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(st.characters()),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["prompt", "messages", "id", "role", "content", "chosen", "tags"]),
                inner,
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_line_gives_a_prompt_that_can_be_written_or_a_reason(line):
    try:
        prompt_of(line, source=SOURCE).model_dump_json()
    except ValueError as error:
        assert reason_for(error)  # noqa: PT017 (either outcome is right)
