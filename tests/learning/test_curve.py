import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.learning.curve import Scale, apart, loss_curve, thinned, ticks
from charter.learning.metrics import TrainRow, ValidationRow

SVG = "{http://www.w3.org/2000/svg}"


def train_row(step, loss):
    return TrainRow(
        step=step, epoch=0.1, tokens=1, loss=loss, lr=0.1, grad_norm=1.0, tokens_per_s=1.0
    )


def rows(steps=400):
    training = [train_row(step, 3 * 0.99**step + 0.5) for step in range(1, steps + 1)]
    return [
        *training,
        *(ValidationRow(step=step, loss=1 + (step - 200) ** 2 / 4e4) for step in range(0, 401, 40)),
    ]


@given(
    low=st.floats(-1e6, 1e6),
    size=st.floats(1e-3, 1e6),
    at_most=st.integers(2, 10),
)
def test_ticks_are_few_round_and_within(low, size, at_most):
    high = low + size
    marks = ticks(low, high, at_most=at_most)
    assert len(marks) <= at_most
    assert all(low - 1e-6 * size <= mark <= high + 1e-6 * size for mark in marks)


def test_ticks_are_the_ones_a_person_would_draw():
    assert ticks(0, 400, at_most=7) == [0, 100, 200, 300, 400]
    assert ticks(0.93, 2.11, at_most=6) == pytest.approx([1.0, 1.2, 1.4, 1.6, 1.8, 2.0])


@given(points=st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 10)), max_size=400))
def test_thinning_keeps_points_within_what_they_stand_for(points):
    thin = thinned(points, at_most=50)
    assert len(thin) <= 50
    assert bool(thin) == bool(points)
    for axis in (0, 1):
        values = [point[axis] for point in points]
        assert all(min(values) - 1e-6 <= p[axis] <= max(values) + 1e-6 for p in thin)


@given(first=st.floats(0, 400), second=st.floats(0, 400))
def test_labels_never_overlap_and_keep_their_order(first, second):
    one, other = apart(first, second, distance=16)
    assert abs(one - other) >= 16 - 1e-9
    assert (one - other) * (first - second) >= 0
    assert one + other == pytest.approx(first + second)


def test_a_scale_draws_its_ends_where_it_says():
    scale = Scale(2.0, 4.0, 300.0, 100.0)
    assert (scale(2.0), scale(3.0), scale(4.0)) == (300.0, 200.0, 100.0)


def test_the_picture_shows_both_curves_and_the_turning_point():
    best = ValidationRow(step=200, loss=1.0)
    picture = ElementTree.fromstring(loss_curve(rows(), best=best, title="Fine-tuning starter"))
    texts = [element.text for element in picture.iter(f"{SVG}text")]
    assert {"training", "validation", "best: step 200, val 1.00", "Fine-tuning starter"} <= set(
        texts
    )
    assert len(list(picture.iter(f"{SVG}polyline"))) == 2
    (turn,) = [item for item in picture.iter(f"{SVG}line") if item.get("class") == "turn"]
    (dot,) = picture.iter(f"{SVG}circle")
    assert turn.get("x1") == turn.get("x2") == dot.get("cx")
    (words,) = [item for item in picture.iter(f"{SVG}text") if item.get("class") == "turned"]
    assert float(words.get("y")) < float(turn.get("y1")), "they stand clear of the curves"


def test_everything_drawn_lies_within_the_picture():
    picture = ElementTree.fromstring(
        loss_curve(rows(), best=ValidationRow(step=400, loss=2.0), title="x")
    )
    width, height = map(float, picture.get("viewBox").split()[2:])
    for line in picture.iter(f"{SVG}polyline"):
        for point in line.get("points").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height
    for text in picture.iter(f"{SVG}text"):
        assert 0 <= float(text.get("x", 1)) <= width
        assert 0 <= float(text.get("y", 1)) <= height


def test_the_picture_needs_nothing_but_itself_and_knows_the_dark():
    text = loss_curve(rows(), best=None, title='a <b> & "c"')
    ElementTree.fromstring(text)
    assert "prefers-color-scheme: dark" in text
    assert "href" not in text
    assert "url(" not in text
    assert "<script" not in text


@pytest.mark.parametrize(
    "few",
    [[train_row(1, 2.0)], [ValidationRow(step=0, loss=2.0), train_row(1, 2.0)], rows(1)],
    ids=["one step", "all alike", "more validations than steps"],
)
def test_a_short_training_has_a_picture_too(few):
    ElementTree.fromstring(loss_curve(few, best=None, title="short"))
