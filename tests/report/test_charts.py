from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.report.charts import (
    Dot,
    Mark,
    Series,
    calibration_chart,
    difference_bar,
    line_chart,
    rate_bar,
)

share = st.floats(0, 1)
value = st.floats(-1e6, 1e6)
points = st.lists(st.tuples(st.integers(0, 100_000).map(float), value), min_size=1, max_size=300)


def drawn(picture):
    """The picture's elements; fails where it is no XML."""
    return list(ElementTree.fromstring(str(picture)).iter())


def places(picture):
    """All coordinates along both axes."""
    for element in drawn(picture):
        for pair in element.get("points", "").split():
            yield tuple(map(float, pair.split(",")))
        if element.tag == "circle":
            yield float(element.get("cx")), float(element.get("cy"))


def chart(*series, **options):
    return line_chart(series, label="loss", x_label="step", y_label="nats", **options)


@given(points)
def test_every_point_lies_within_the_picture(found):
    for left, top in places(chart(Series("a", found), marks=[Mark(10.0, "kept")])):
        assert 0 <= left <= 400
        assert 0 <= top <= 250


@given(points)
def test_a_long_line_is_thinned(found):
    (line,) = [each for each in drawn(chart(Series("a", found))) if each.tag == "polyline"]
    assert 1 <= len(line.get("points").split()) <= 120


@given(points, value)
def test_a_level_lies_within_the_picture_among_its_values(found, level):
    picture = chart(Series("a", found), marks=[Mark(10.0, "kept")], level=level)
    (line,) = [each for each in drawn(picture) if each.get("class") == "middle"]
    assert line.get("y1") == line.get("y2")
    assert 0 <= float(line.get("y1")) <= 250
    tops = [top for _, top in places(picture)]
    assert all(0 <= top <= 250 for top in tops)
    if all(value < level for _, value in found):
        assert float(line.get("y1")) <= min(tops)


def test_texts_are_escaped():
    picture = chart(
        Series("<script>", [(1.0, 2.0)]),
        Series("b", [(1.0, 3.0)]),
        marks=[Mark(1.0, '"<img>&')],
    )
    texts = [element.text for element in drawn(picture)]
    assert "<script>" in texts
    assert '"<img>&' in texts
    assert "<script" not in str(picture)


def test_a_series_without_points_is_left_out():
    picture = chart(Series("nothing", []), Series("some", [(1.0, 2.0), (2.0, 3.0)]))
    assert "nothing" not in str(picture)


def test_fractions_are_written_as_percentages():
    picture = chart(Series("a", [(0.0, 0.0), (1.0, 0.4)]), unit="percent", from_zero=True)
    texts = [element.text for element in drawn(picture)]
    assert {"0 %", "10 %", "40 %"} <= set(texts)


def test_steps_are_whole_numbers():
    picture = chart(Series("a", [(0.0, 1.0), (2.0, 3.0)]))
    below = [each.text for each in drawn(picture) if each.get("y") == "225"]
    assert below == ["0", "1", "2"]


@given(share, share, share)
def test_a_bar_is_as_long_as_its_share(rate, low, high):
    elements = drawn(rate_bar(rate, low, high))
    (fill,) = [each for each in elements if each.get("class") == "fill"]
    assert float(fill.get("width")) == pytest.approx(100 * rate, abs=0.06)
    (line, *_) = [each for each in elements if each.get("class") == "whisker"]
    assert float(line.get("x1")) == pytest.approx(100 * low, abs=0.06)
    assert float(line.get("x2")) == pytest.approx(100 * high, abs=0.06)


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_no_difference_lies_in_the_middle(value, low, high):
    for element in drawn(difference_bar(value, low, high)):
        for key in ("x", "x1", "x2"):
            assert -2 <= float(element.get(key, 50)) <= 100


def test_larger_bins_have_larger_dots_that_say_what_they_hold():
    picture = calibration_chart(
        [Dot(0.55, 0.4, 4, "4 pairs"), Dot(0.95, 1.0, 90, "90 pairs")],
        label="calibration", x_label="sure", y_label="right", low=0.5,
    )  # fmt: skip
    small, large = [each for each in drawn(picture) if each.tag == "circle"]
    assert float(small.get("r")) < float(large.get("r"))
    assert (small[0].text, large[0].text) == ("4 pairs", "90 pairs")
    assert all(0 <= top <= 250 for _, top in places(picture))
