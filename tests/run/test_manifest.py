from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.run import Tally

counts = st.dictionaries(st.sampled_from(["BackendError", "empty", "too_long"]), st.integers(1, 9))


@st.composite
def tallies(draw):
    failures = draw(counts)
    done = draw(st.integers(0, 99))
    failed = sum(failures.values())
    return Tally(entered=done + failed, done=done, failed=failed, reasons=failures)


def test_a_tally_is_written_in_the_manifests_form():
    tally = Tally(entered=3, done=2, failed=1, reasons={"BackendError": 1}, seconds=0.5, calls=4)
    assert json.loads(tally.model_dump_json()) == {
        "in": 3,
        "done": 2,
        "failed": 1,
        "filtered": 0,
        "reasons": {"BackendError": 1},
        "seconds": 0.5,
        "calls": 4,
        "tokens": 0,
    }


@given(tally=tallies())
def test_a_tally_reads_back_what_it_wrote(tally):
    assert Tally.model_validate_json(tally.model_dump_json()) == tally


@given(tally=tallies(), reasons=counts)
def test_filtering_keeps_in_and_balances(tally, reasons):
    if sum(reasons.values()) > tally.done:
        with pytest.raises(ValueError, match="greater than or equal to 0"):
            tally.filtering(reasons)
        return
    filtered = tally.filtering(reasons)
    assert filtered.entered == tally.entered
    assert filtered.entered == filtered.done + filtered.failed + filtered.filtered
    assert filtered.filtered == sum(reasons.values())


def test_a_stage_that_goes_on_with_other_records_accounts_for_all_of_them():
    first = Tally(entered=3, done=2, failed=1, reasons={"JudgementError": 1}, calls=5, tokens=50)
    then = Tally(entered=2, done=1, filtered=1, reasons={"overlong": 1}, calls=9, tokens=90)
    whole = first.followed_by(then)
    assert (whole.entered, whole.done, whole.failed, whole.filtered) == (5, 3, 1, 1)
    assert whole.reasons == {"JudgementError": 1, "overlong": 1}
    assert (whole.calls, whole.tokens) == (9, 90)


def test_a_tally_that_does_not_balance_is_refused():
    with pytest.raises(ValueError, match="in = done"):
        Tally(entered=3, done=2)


def test_a_loss_without_a_reason_is_refused():
    with pytest.raises(ValueError, match="one reason per"):
        Tally(entered=3, done=2, filtered=1)
