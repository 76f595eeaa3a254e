import json

import pytest

from charter.errors import PromptError
from charter.prompts import AnswerPair, Quarantined, check_pairs, read_pairs, usable_pairs

HELLO = "\n\nHuman: Hi\n\nAssistant: Hello."
WHAT = "\n\nHuman: Hi\n\nAssistant: What?"


def read(tmp_path, *rows):
    path = tmp_path / "people.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return list(read_pairs(path))


def test_a_pair_of_transcripts_becomes_a_prompt_with_two_answers(tmp_path):
    opening = "\n\nHuman: Are you Ada?\n\nAssistant: Yes."
    (pair,) = read(tmp_path, {"chosen": opening + HELLO, "rejected": opening + WHAT})
    assert isinstance(pair, AnswerPair)
    assert [turn.content for turn in pair.prompt.messages] == ["Are you Ada?", "Yes.", "Hi"]
    assert (pair.chosen, pair.rejected) == ("Hello.", "What?")
    assert pair.prompt.kind == "harmful"


def test_turns_do_as_well_and_the_row_may_name_its_kind(tmp_path):
    asked = {"role": "user", "content": "Hi"}
    answers = [{"role": "assistant", "content": text} for text in ("Hello.", "What?")]
    row = {"chosen": [asked, answers[0]], "rejected": [asked, answers[1]], "kind": "benign"}
    (pair,) = read(tmp_path, row)
    assert (pair.chosen, pair.rejected, pair.prompt.kind) == ("Hello.", "What?", "benign")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("not json", "not JSON"),
        ({"chosen": HELLO}, "no `rejected`"),
        ({"chosen": HELLO, "rejected": HELLO + " "}, "give the same answer"),
        ({"chosen": HELLO, "rejected": WHAT.replace("Hi", "Ho")}, "differ before their last turn"),
        ({"chosen": HELLO, "rejected": "\n\nHuman: Hi\n\nAssistant:"}, "`rejected` is empty"),
        ({"chosen": "\n\nHuman: Hi", "rejected": WHAT}, "`chosen` does not end with an answer"),
        ({"chosen": HELLO, "rejected": 3}, "rejected: must be a transcript"),
        ({"chosen": HELLO, "rejected": [3]}, "rejected: must be a transcript"),
        ({"chosen": HELLO, "rejected": WHAT, "prompt": "Hi"}, "prompt: leave it out"),
        ({"chosen": HELLO + "\ud800", "rejected": WHAT}, "lone surrogate"),
        ({"chosen": HELLO, "rejected": WHAT, "kind": "odd"}, "kind: Input should be"),
    ],
)
def test_a_bad_row_is_quarantined_with_its_line_and_reason(tmp_path, row, reason):
    good = {"chosen": HELLO, "rejected": WHAT}
    first, bad, last = read(tmp_path, good, row, good)
    assert isinstance(first, AnswerPair)
    assert isinstance(last, AnswerPair)
    assert isinstance(bad, Quarantined)
    assert bad.line == 2
    assert reason in bad.reason


def test_a_missing_file_names_the_setting(tmp_path):
    with pytest.raises(PromptError, match=r"Correct the path under `compare\.human`"):
        list(read_pairs(tmp_path / "none.jsonl"))
    (problem,) = check_pairs(tmp_path / "none.jsonl")
    assert "no such file" in problem.message


def test_usable_pairs_leave_out_the_bad_ones_and_tell_of_them(tmp_path):
    path = tmp_path / "people.jsonl"
    path.write_text(f"{json.dumps({'chosen': HELLO, 'rejected': WHAT})}\nnot json\n")
    bad = []
    (pair,) = usable_pairs(path, on_bad=bad.append)
    assert pair.chosen == "Hello."
    assert [row.line for row in bad] == [2]
    assert [problem.line for problem in check_pairs(path)] == [2]


@pytest.mark.parametrize("count", [0, 2, 5])
def test_a_file_without_one_usable_pair_is_an_error_with_the_first_reasons(tmp_path, count):
    path = tmp_path / "people.jsonl"
    path.write_text("not json\n" * count)
    with pytest.raises(PromptError, match=r"people\.jsonl: no usable pair of answers") as refused:
        list(usable_pairs(path, on_bad=lambda _: None))
    said = str(refused.value)
    assert f"({count} rows quarantined)" in said
    assert "take `compare.human` out" in said
    assert [f"people.jsonl:{line}: not JSON" in said for line in range(1, 6)] == [
        line <= min(count, 3) for line in range(1, 6)
    ]
    whole, *rows = check_pairs(path)
    assert f"no usable pair of answers ({count} rows quarantined)" in whole.message
    assert len(rows) == count
