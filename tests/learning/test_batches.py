from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from charter.encoding import Example
from charter.learning.batches import (
    LENGTH_STEP,
    collate,
    plan_epoch,
    plan_steps,
)
from charter.learning.tokens import supervised_tokens

lengths = st.dictionaries(
    st.text(min_size=1, max_size=6), st.integers(min_value=2, max_value=90), min_size=1
)
budgets = st.integers(min_value=8, max_value=400)
accumulations = st.integers(min_value=1, max_value=5)


@st.composite
def examples(draw):
    length = draw(st.integers(min_value=2, max_value=12))
    ids = draw(st.lists(st.integers(0, 50), min_size=length, max_size=length))
    return Example(tuple(ids), prompt_length=draw(st.integers(0, length - 1)))


@given(lengths=lengths, budget=budgets, accumulate=accumulations, epoch=st.integers(0, 3))
def test_an_epoch_reads_every_example_once(lengths, budget, accumulate, epoch):
    plan = plan_epoch(lengths, tokens_per_batch=budget, accumulate=accumulate, seed=0, epoch=epoch)
    assert Counter(name for step in plan for batch in step for name in batch) == Counter(
        list(lengths)
    )
    assert all(len(step) == accumulate for step in plan[:-1])


@given(lengths=lengths, budget=budgets)
def test_a_batch_of_several_rows_keeps_to_the_budget(lengths, budget):
    plan = plan_epoch(lengths, tokens_per_batch=budget, accumulate=1, seed=0, epoch=0)
    for (batch,) in plan:
        assert len(batch) == 1 or len(batch) * max(lengths[name] for name in batch) <= budget


@given(lengths=lengths, budget=budgets, accumulate=accumulations)
def test_all_epochs_have_the_same_number_of_steps(lengths, budget, accumulate):
    plans = [
        plan_epoch(lengths, tokens_per_batch=budget, accumulate=accumulate, seed=3, epoch=epoch)
        for epoch in range(3)
    ]
    assert len({len(plan) for plan in plans}) == 1


@given(lengths=lengths, budget=budgets, start=st.integers(0, 12), more=st.integers(0, 12))
def test_steps_from_anywhere_are_the_same_steps(lengths, budget, start, more):
    options = {"tokens_per_batch": budget, "accumulate": 2, "seed": 1}
    stop = start + more
    whole = list(plan_steps(lengths, **options, start=0, stop=stop))
    assert len(whole) == stop
    assert list(plan_steps(lengths, **options, start=start, stop=stop)) == whole[start:]


@given(lengths=lengths, budget=budgets)
def test_the_order_of_the_examples_does_not_matter(lengths, budget):
    options = {"tokens_per_batch": budget, "accumulate": 1, "seed": 1, "epoch": 0}
    backwards = dict(reversed(lengths.items()))
    assert plan_epoch(lengths, **options) == plan_epoch(backwards, **options)


def test_epochs_and_seeds_mix_anew():
    lengths = {f"row-{number}": 10 + number % 20 for number in range(60)}
    plans = {
        (seed, epoch): tuple(
            plan_epoch(lengths, tokens_per_batch=128, accumulate=1, seed=seed, epoch=epoch)
        )
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(plans.values())) == 4


def test_rows_of_a_batch_are_of_alike_length():
    lengths = {f"row-{number}": 10 + 7 * number % 300 for number in range(200)}
    plan = plan_epoch(lengths, tokens_per_batch=2400, accumulate=1, seed=0, epoch=0)
    padded = sum(len(batch) * max(lengths[name] for name in batch) for (batch,) in plan)
    assert padded < 1.1 * sum(lengths.values()) + LENGTH_STEP * len(lengths)


@given(rows=st.lists(examples(), min_size=1, max_size=6))
def test_the_mask_marks_the_position_before_each_response_token(rows):
    batch = collate(rows)
    for ids, supervised, row in zip(batch.ids_BT, batch.supervised_BT, rows, strict=True):
        width = len(row.ids)
        assert tuple(ids[:width].tolist()) == row.ids
        assert not supervised[width - 1 :].any()
        positions = supervised.nonzero().flatten().tolist()
        assert positions == list(range(max(0, row.prompt_length - 1), width - 1))
    assert batch.targets_S.tolist() == [
        token for row in rows for token in row.ids[max(1, row.prompt_length) :]
    ]
    assert len(batch.targets_S) == sum(supervised_tokens(row) for row in rows)


def test_moving_a_batch_keeps_what_it_says():
    batch = collate([Example((1, 2, 3), 1)])
    moved = batch.to(torch.device("cpu"))
    assert torch.equal(moved.targets_S, batch.targets_S)
