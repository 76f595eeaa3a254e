from hypothesis import given
from hypothesis import strategies as st

from charter.learning.metrics import TrainRow, ValidationRow, append_row, has_turned, turning_point


def validations(*losses):
    return [ValidationRow(step=number, loss=loss) for number, loss in enumerate(losses)]


def test_the_turning_point_is_where_validation_was_lowest():
    assert turning_point(validations(5.0, 3.0, 2.0, 2.5, 2.6), min_delta=0.0).step == 2


def test_the_untrained_model_is_no_turning_point():
    assert turning_point(validations(1.0), min_delta=0.0) is None
    assert turning_point(validations(1.0, 2.0), min_delta=0.0).step == 1


def test_a_fall_below_min_delta_is_no_improvement():
    rows = validations(5.0, 2.0, 1.999, 1.998)
    assert turning_point(rows, min_delta=0.01).step == 1
    assert has_turned(rows, patience=2, min_delta=0.01)
    assert not has_turned(rows, patience=2, min_delta=0.0005)


def test_training_goes_on_while_patience_lasts():
    assert not has_turned(validations(5.0, 2.0, 2.1, 2.2), patience=3, min_delta=0.0)
    assert has_turned(validations(5.0, 2.0, 2.1, 2.2, 2.3), patience=3, min_delta=0.0)


def test_nothing_has_turned_before_the_first_validation():
    assert not has_turned([], patience=1, min_delta=0.0)


@given(losses=st.lists(st.floats(0, 100), min_size=2), patience=st.integers(1, 5))
def test_what_has_turned_stays_turned_until_a_new_best(losses, patience):
    rows = validations(*losses)
    if has_turned(rows, patience=patience, min_delta=0.0):
        best = turning_point(rows, min_delta=0.0)
        later = [*rows, ValidationRow(step=len(rows), loss=best.loss + 1)]
        assert has_turned(later, patience=patience, min_delta=0.0)


def test_rows_are_appended_one_a_line(tmp_path):
    path = tmp_path / "finetune.jsonl"
    row = TrainRow(step=1, epoch=0.5, tokens=10, loss=1.5, lr=0.1, grad_norm=2.0, tokens_per_s=3.0)
    append_row(path, row)
    append_row(path, ValidationRow(step=1, loss=2.5))
    first, second = path.read_text().splitlines()
    assert TrainRow.model_validate_json(first) == row
    assert second == '{"kind":"validation","step":1,"loss":2.5}'
