import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.feedback.ordering import Scored, ordering
from tests.feedback.learners import preference


def scored(number, gap, *, tokens=(3, 3), **changes):
    return Scored(
        pair=preference(number, **changes),
        chosen=gap,
        rejected=0.0,
        chosen_tokens=tokens[0],
        rejected_tokens=tokens[1],
    )


def test_accuracy_counts_pairs_that_are_ordered_as_labelled():
    found = ordering([scored(n, gap) for n, gap in enumerate((2.0, 1.0, -1.0, 0.0))])
    assert (found.accuracy.rate, found.accuracy.n) == (0.5, 4)
    assert found.accuracy.low < 0.5 < found.accuracy.high


def test_pairs_that_the_judge_compared_are_counted_apart_from_easier_ones():
    found = ordering([scored(0, -1.0), scored(1, 1.0, source="negative")])
    assert (found.accuracy.rate, found.judged.rate, found.judged.n) == (0.5, 0.0, 1)


def test_many_pairs_of_one_prompt_tell_no_more_than_the_prompt():
    same = [scored(n, 1.0, provenance=preference(n % 4).provenance) for n in range(40)]
    apart = [scored(n, 1.0) for n in range(40)]
    assert ordering(same).accuracy.low < ordering(apart).accuracy.low


def test_undecided_pairs_count_in_calibration_and_loss_alone():
    found = ordering([scored(0, 0.0, p_chosen=0.5), scored(1, 1.0)])
    assert found.accuracy.n == 1
    assert sum(each.n for each in found.calibration) == 2
    assert found.by_source["judge"].n == 1


def test_auc_reads_every_pair_in_both_orders():
    assert ordering([scored(0, 1.0), scored(1, 2.0)]).auc == 1.0
    assert ordering([scored(0, -1.0), scored(1, -2.0)]).auc == 0.0
    assert ordering([scored(0, 0.0)]).auc == 0.5
    assert ordering([scored(0, 3.0), scored(1, -1.0)]).auc == 0.75


def test_a_model_that_predicts_the_soft_labels_is_calibrated():
    pairs = [
        scored(n, math.log(p / (1 - p)), p_chosen=p) for n, p in enumerate((0.55, 0.65, 0.8, 0.95))
    ]
    found = ordering(pairs)
    assert found.ece == pytest.approx(0.0, abs=1e-9)
    assert [each.n for each in found.calibration] == [1, 1, 1, 1]


def test_being_right_as_often_as_predicted_is_calibrated_with_hard_labels():
    gap = math.log(3)  # predicts 3 of 4
    found = ordering([scored(n, gap if n % 4 else -gap) for n in range(40)])
    assert found.ece == pytest.approx(0.0, abs=1e-9)
    assert found.accuracy.rate == 0.75


def test_a_model_too_sure_of_itself_is_not_calibrated():
    found = ordering([scored(n, 8.0 if n % 2 else -8.0) for n in range(40)])
    assert found.ece == pytest.approx(0.5, abs=1e-3)


def test_the_loss_is_the_cross_entropy_of_the_soft_labels():
    found = ordering([scored(0, 2.0, p_chosen=0.9)])
    sigmoid = 1 / (1 + math.exp(-2.0))
    assert found.loss == pytest.approx(-0.9 * math.log(sigmoid) - 0.1 * math.log(1 - sigmoid))


def test_rewards_for_length_show():
    rows = [scored(n, 1.0, tokens=(9, 3)) for n in range(4)]
    rows += [scored(n, -1.0, tokens=(3, 9)) for n in range(4, 8)]
    found = ordering(rows).by_length
    assert (found.chosen_longer.accuracy, found.chosen_longer.n) == (1.0, 4)
    assert (found.chosen_shorter.accuracy, found.chosen_shorter.n) == (0.0, 4)
    assert found.correlation == pytest.approx(math.sqrt(0.5))


def test_figures_stand_by_principle_source_and_kind():
    rows = [
        scored(0, 1.0, principle_ids=("ids", "kind")),
        scored(1, -1.0, principle_ids=("ids",)),
        scored(2, 1.0, principle_ids=(), source="human"),
    ]
    found = ordering(rows)
    assert (found.by_principle["ids"].accuracy, found.by_principle["ids"].n) == (0.5, 2)
    assert (found.by_principle["kind"].accuracy, found.by_principle["kind"].n) == (1.0, 1)
    assert {name: each.n for name, each in found.by_source.items()} == {"judge": 2, "human": 1}
    assert found.by_kind["harmful"].n == 3


def test_nothing_held_out_has_no_figures():
    found = ordering(())
    assert (found.accuracy.rate, found.auc, found.ece, found.loss) == (None,) * 4


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20))
def test_the_order_of_pairs_does_not_matter_and_figures_stay_in_their_bounds(gaps):
    rows = [scored(n, gap) for n, gap in enumerate(gaps)]
    found, turned = ordering(rows), ordering(rows[::-1])
    assert found.accuracy == turned.accuracy
    assert found.auc == turned.auc
    assert 0.0 <= found.auc <= 1.0
    assert 0.0 <= found.ece <= 1.0
    assert sum(each.n for each in found.calibration) == len(gaps)
