from hypothesis import given
from hypothesis import strategies as st

from charter.models.rows import Reading
from charter.models.slots import Slot


@given(st.integers(0, 40), st.lists(st.integers(1, 200), max_size=12), st.integers(1, 4))
def test_what_is_shared_out_is_read_once(decoded, counts, passes):
    slots = [Slot(index) for index in range(decoded + len(counts))]
    reading = Reading(slots[:decoded], list(zip(slots[decoded:], counts, strict=True)))
    shares = reading.shared_out(passes)
    assert sorted(id(slot) for share in shares for slot, _ in share) == sorted(map(id, slots))
    assert sum(len(share) for share in shares) == len(reading)
    assert 0 < len(shares) <= passes or not len(reading)


@given(st.integers(64, 200), st.lists(st.integers(1, 8), max_size=12), st.integers(1, 4))
def test_passes_are_about_equally_long(decoded, counts, passes):
    slots = [Slot(index) for index in range(decoded + len(counts))]
    reading = Reading(slots[:decoded], list(zip(slots[decoded:], counts, strict=True)))
    shares = reading.shared_out(passes)
    assert len(shares) == passes
    assert max(map(len, shares)) - min(map(len, shares)) <= 2


def test_few_rows_are_read_in_one_pass():
    assert len(Reading([Slot(index) for index in range(15)], []).shared_out(4)) == 1
