import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charter.models import waiting
from charter.models.calls import Weighing
from charter.models.waiting import Waiting


def call(ids):
    return Weighing(ids=list(ids), endings=[[2]])


def first_difference(first, second):
    pairs = zip(first, second, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), None)


def naive(first, second):
    at = first_difference(first, second)
    return min(len(first), len(second)) if at is None else at


ids = st.lists(st.integers(0, 2), min_size=1, max_size=9)


@pytest.mark.parametrize("columns", [1, 4, 512])
@settings(max_examples=60, deadline=None)
@given(moves=st.lists(st.tuples(ids, st.integers(0, 3)), min_size=1, max_size=90), asked=ids)
def test_what_calls_have_in_common_is_found_however_they_come_and_go(columns, moves, asked):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(waiting, "_COLUMNS", columns)
        line, expected = Waiting(), []
        for tokens, leaves in moves:
            one = call(tokens)
            line.add(one)
            expected.append(one)
            if leaves == 0:
                line.remove(expected.pop(len(expected) // 2))
        assert list(line) == expected
        assert [ids.tolist() for _, ids in line.items()] == [one.ids for one in expected]
        common = line.common(np.array(asked))
        assert common.tolist() == [naive(one.ids, asked) for one in expected]
        assert len(line) == len(expected)


def test_more_calls_than_there_was_room_for_are_no_matter():
    line = Waiting()
    for number in range(200):
        line.add(call([1, number]))
    assert line.common(np.array([1, 150])).tolist() == [1 + (n == 150) for n in range(200)]
