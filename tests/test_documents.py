from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from charter.documents import Document, read_yaml, validate
from charter.errors import ConfigError


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rate: float | str = Field(default=0.0, union_mode="left_to_right")
    sides: tuple[int, ...] | bool = True
    inner: "Shape | None" = None
    weights: dict[str, float] = {}


def complaints(document):
    with pytest.raises(ConfigError) as caught:
        validate(document, Shape, error=ConfigError)
    return str(caught.value).splitlines()


def in_file(tmp_path, text):
    path = tmp_path / "shape.yaml"
    path.write_text(text, encoding="utf-8")
    return read_yaml(path, error=ConfigError)


def test_what_the_members_of_a_union_say_is_one_complaint(tmp_path):
    (said,) = complaints(in_file(tmp_path, "inner: {sides: x}\n"))
    assert said.endswith(
        "shape.yaml:1:9: `inner.sides`: Input should be a list or a valid boolean, "
        "unable to interpret input"
    )


def test_no_complaint_names_a_member_of_a_union(tmp_path):
    (said,) = complaints(in_file(tmp_path, "rate: [1]\n"))
    assert "`rate`: Input should be a valid number or a valid string" in said


def test_a_mistake_inside_one_member_of_a_union_is_told_alone(tmp_path):
    (said,) = complaints(in_file(tmp_path, "sides:\n  - 1\n  - x\n"))
    assert said.endswith(":3:5: `sides.1`: Input should be a valid integer")


def test_a_key_of_the_users_own_is_part_of_the_place(tmp_path):
    (said,) = complaints(in_file(tmp_path, "weights: {mine: x}\n"))
    assert said.endswith(":1:11: `weights.mine`: Input should be a valid number")


def test_what_is_no_file_has_no_line():
    said = complaints(Document(Path("--set"), {"inner": {"inner": {}, "innr": 1}}))
    assert said == ["--set: unknown key `innr`; did you mean `inner`?"]


def test_an_unknown_key_that_is_named_like_the_part_around_it_is_found():
    class Outer(BaseModel):
        model_config = ConfigDict(extra="forbid")
        shape: Shape

    with pytest.raises(ConfigError, match="unknown key `shape`; known here: inner, rate"):
        validate(Document(Path("--set"), {"shape": {"shape": 1}}), Outer, error=ConfigError)


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: &a\n  b: *a\n", "&a [x, {b: *a}, *a]\n"])
def test_an_anchor_that_refers_to_itself_is_a_mistake_in_its_place(tmp_path, text):
    with pytest.raises(ConfigError, match=r"shape.yaml:1:\d: an anchor refers to itself"):
        in_file(tmp_path, text)


def test_an_anchor_may_be_used_often(tmp_path):
    document = in_file(tmp_path, "a: &a [1]\nb: *a\nc: [*a, *a]\n")
    assert document.data == {"a": [1], "b": [1], "c": [[1], [1]]}
