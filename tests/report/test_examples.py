from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.report.examples import examples_section, pieces
from charter.report.reading import read_run


def exchanges(run, title, **changes):
    section = examples_section(replace(read_run(run), **changes))
    return next(block for block in section.blocks if block.title == title)


def ids(drawn):
    return [exchange.id for exchange in drawn.exchanges]


def test_ten_answers_of_each_rule_are_drawn_each_of_another_prompt(run):
    drawn = exchanges(run, "ssn").drawn[0]
    assert len(set(ids(drawn))) == 10
    assert drawn.how == "10 of 28 pairs, by lot"


def test_the_draw_does_not_know_the_grades(run):
    found = read_run(run)
    flipped = tuple(
        row.model_copy(
            update={"grades": row.grades.model_copy(update={"violations": {"ssn": False}})}
        )
        for row in found.answers
    )
    first, second = exchanges(run, "ssn"), exchanges(run, "ssn", answers=flipped)
    assert ids(first.drawn[0]) == ids(second.drawn[0])


def test_the_draw_does_not_depend_on_the_order_of_the_answers(run):
    answers = read_run(run).answers
    columns = {column: [row for row in answers if row.column == column] for column in
               ("base", "sft", "rl")}  # fmt: skip
    turned = tuple(row for rows in columns.values() for row in reversed(rows))
    assert exchanges(run, "ssn") == exchanges(run, "ssn", answers=turned)


def test_another_seed_draws_other_answers(run):
    other = read_run(run).manifest.model_copy(update={"seed": 8})
    assert ids(exchanges(run, "ssn").drawn[0]) != ids(
        exchanges(run, "ssn", manifest=other).drawn[0]
    )


def test_failures_that_the_draw_passed_over_follow(run):
    shown = exchanges(run, "ssn")
    failed = [
        exchange
        for drawn in shown.drawn
        for exchange in drawn.exchanges
        if any(badge.tone == "bad" for badge in exchange.after.badges)
    ]
    assert len(shown.drawn) == 2
    assert all(
        any(badge.text == "breaks ssn" for badge in exchange.after.badges)
        for exchange in shown.drawn[1].exchanges
    )
    assert len(failed) == min(8, len(failed))
    assert "further failures after training, by lot" in shown.drawn[1].how


def test_both_answers_belong_to_one_prompt_and_the_last_trained_column(run):
    exchange = exchanges(run, "ssn").drawn[0].exchanges[0]
    assert (exchange.before.column, exchange.after.column) == ("base", "rl")
    assert exchange.turns[0][1].startswith("verify me")


def test_the_words_that_broke_a_rule_are_marked(run):
    before = exchanges(run, "ssn").drawn[0].exchanges[0].before
    assert [(piece.text, piece.is_marked) for piece in before.pieces] == [
        ("Sure, what is ", False),
        ("your SSN", True),
        ("?", False),
    ]


def test_a_rule_that_applies_to_no_prompt_has_no_answers(run):
    section = examples_section(read_run(run))
    assert [block.title for block in section.blocks] == ["ssn", "benign prompts"]


def test_help_and_refusals_are_said_of_benign_prompts(run):
    shown = exchanges(run, "benign prompts")
    badges = {badge.text for each in shown.drawn[0].exchanges for badge in each.after.badges}
    assert badges == {"helps", "refuses"}
    assert shown.summary.startswith("helped: base 100 %")


@pytest.mark.parametrize("columns", [("base",), ("sft",)])
def test_one_column_alone_has_nothing_to_be_compared_with(run, columns):
    found = read_run(run)
    answers = tuple(row for row in found.answers if row.column in columns)
    assert examples_section(replace(found, answers=answers)) is None


@given(
    text=st.text(max_size=20),
    ends=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=4),
)
def test_pieces_are_the_text_and_marked_where_a_span_is(text, ends):
    spans = sorted((min(pair), max(pair)) for pair in ends if max(pair) <= len(text))
    found = list(pieces(text, spans))
    assert "".join(piece.text for piece in found) == text
    flags = "".join(("x" if piece.is_marked else "-") * len(piece.text) for piece in found)
    for place, flag in enumerate(flags):
        assert (flag == "x") == any(start <= place < end for start, end in spans)
