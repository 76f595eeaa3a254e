from collections import Counter

import pytest

from charter.feedback.misplaced import misplaced_rows
from charter.feedback.preferences import revised_row
from charter.records import Provenance, RevisionPair, assistant, user

SSN, LINK = ("ssn", "login"), ("ssn", "link")
INSULT = ("respect", "insult")


def revised(number, text, tags=()):
    pair = RevisionPair(
        id=f"p{number}:1",
        prompt=(user(f"Do it, {number}."),),
        chosen=(assistant(text),),
        rejected=(assistant("Sure."),),
        provenance=Provenance(
            prompt_id=f"p{number}", kind="harmful", round=1, principle_ids=("ssn",), seed=3,
            model="base", constitution="c0ffee",
        ),
    )  # fmt: skip
    return revised_row(pair, p_chosen=0.9, tags=tags, system=None)


def misplaced(*rows, p_chosen=0.95, seed=0):
    return list(misplaced_rows(rows, p_chosen=p_chosen, seed=seed))


def said(row):
    return row.chosen[0].content, row.rejected[0].content


def test_a_revision_is_preferred_to_one_of_another_prompt_and_no_judge_is_named():
    one, other = revised(0, "I can email a link.", SSN), revised(1, "A calm note, perhaps?", INSULT)
    first, second = misplaced(one, other, p_chosen=0.8)
    assert (first.id, second.id) == ("misplaced/p0:1~p1:1", "misplaced/p1:1~p0:1")
    assert first.prompt == one.prompt
    assert said(first) == ("I can email a link.", "A calm note, perhaps?")
    assert (first.p_chosen, first.provenance.source) == (0.8, "misplaced")
    assert first.provenance.p_chosen_shown_first is None
    assert (first.provenance.prompt_id, first.provenance.tags) == ("p0", SSN)


@pytest.mark.parametrize("tags", [SSN, (*SSN, "pressure", "threat")])
def test_prompts_that_ask_for_the_same_give_no_pair(tags):
    assert misplaced(revised(0, "A link.", SSN), revised(1, "An email.", tags)) == []


def test_two_revisions_for_one_prompt_give_no_pair():
    one = revised(0, "A link.")
    later = one.model_copy(update={"id": "revision/p0:2", "chosen": (assistant("An email."),)})
    assert misplaced(one, later) == []


def test_words_that_answer_mostly_other_things_lose_but_never_win():
    rows = [
        revised(0, "I can't do that.", SSN),
        revised(1, "I can't do that.", INSULT),
        revised(2, "A calm note, perhaps?", INSULT),
    ]
    assert {said(row) for row in misplaced(*rows)} == {
        ("A calm note, perhaps?", "I can't do that."),
    }


def test_words_that_mostly_answer_the_same_win_in_spite_of_a_stray():
    rows = [
        *(revised(number, "I can email a link.", SSN) for number in range(3)),
        revised(3, "I can email a link.", INSULT),
        revised(4, "A calm note, perhaps?", INSULT),
    ]
    winners = Counter(row.provenance.prompt_id for row in misplaced(*rows))
    assert winners == {"p0": 1, "p1": 1, "p2": 1, "p4": 1}


def test_without_tags_every_prompt_asks_for_something_else():
    rows = [revised(0, "A link."), revised(1, "A note."), revised(2, "No."), revised(3, "No.")]
    found = {said(row) for row in misplaced(*rows)}
    assert {chosen for chosen, _ in found} == {"A link.", "A note."}
    assert ("A link.", "A note.") in found


def test_half_of_the_worse_ones_are_to_kindred_prompts_where_there_are_any():
    kindred = [revised(f"k{number}", f"Kindred {number}.", LINK) for number in range(20)]
    strange = [revised(f"s{number}", f"Strange {number}.", INSULT) for number in range(200)]
    mine = [revised(f"m{number}", f"Mine {number}.", SSN) for number in range(100)]
    found = [row for row in misplaced(*mine, *kindred, *strange) if said(row)[0].startswith("Mine")]
    assert len({said(row) for row in found}) == 400
    near = sum(said(row)[1].startswith("Kindred") for row in found)
    assert near / len(found) == pytest.approx(0.55, abs=0.06)  # a few of the others are kindred too


def test_pairs_do_not_depend_on_the_order_of_the_rows_but_on_the_seed():
    rows = [revised(number, f"Text {number}.", (f"tag{number}",)) for number in range(30)]
    ids = {row.id for row in misplaced(*rows)}
    assert {row.id for row in misplaced(*rows[::-1])} == ids
    assert {row.id for row in misplaced(*rows, seed=1)} != ids
