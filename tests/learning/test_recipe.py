import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.learning.recipe import auto_lr, lr_at


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [(3_000_000, 3.5e-4), (100_000_000, 1e-4), (7_000_000_000, 2.2e-5)],
)
def test_the_automatic_learning_rate_is_what_works_in_practice(parameters, expected):
    assert auto_lr(parameters, lora=False) == pytest.approx(expected, rel=0.05)


@given(smaller=st.integers(1, 10**12), factor=st.floats(1.0, 1e4), lora=st.booleans())
def test_a_larger_model_never_learns_faster(smaller, factor, lora):
    assert auto_lr(int(smaller * factor), lora=lora) <= auto_lr(smaller, lora=lora)


@given(parameters=st.integers(1, 10**12))
def test_adapters_learn_faster_within_bounds(parameters):
    assert 2e-4 <= auto_lr(parameters, lora=True) <= 1e-3
    assert auto_lr(parameters, lora=False) <= auto_lr(parameters, lora=True)


@given(steps=st.integers(1, 500), share=st.floats(0.0, 1.0))
def test_every_step_moves_and_none_more_than_the_peak(steps, share):
    rates = [lr_at(step, peak=1.0, steps=steps, warmup_share=share) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine():
    rates = [lr_at(step, peak=1.0, steps=14, warmup_share=0.3) for step in range(14)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[9] == pytest.approx(0.5)
