import itertools
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from charter.models.sampling import NEAR, draw, uniforms

probabilities = st.lists(st.floats(0.001, 1.0), min_size=2, max_size=40)
u = st.floats(1e-9, 1 - 1e-9)


def draw_one(weights, point, temperature=1.0, top_p=1.0, top_k=0):
    logits = torch.tensor(weights, dtype=torch.float64).log().float()[None]
    drawn = draw(
        logits,
        uniforms=[point],
        temperatures=[temperature],
        top_ps=[top_p],
        top_ks=[top_k],
    )
    return drawn.ids[0], drawn.logprobs[0], drawn.near[0]


def shares_of(weights):
    return [weight / sum(weights) for weight in weights]


def test_uniforms_depend_on_seed_and_position_only():
    together = uniforms([5, -1, 2**70 + 3], [0, 1, 2])
    alone = [uniforms([seed], [at])[0] for seed, at in ((5, 0), (-1, 1), (2**70 + 3, 2))]
    assert together == alone


def test_uniforms_never_change_between_releases():
    assert uniforms([0, 1, 1], [0, 0, 1]) == [
        0.6524484863740322,
        0.3681895156516696,
        0.9435642308648545,
    ]


def test_uniforms_fill_the_open_interval_evenly():
    drawn = uniforms([seed for seed in range(100) for _ in range(100)], list(range(100)) * 100)
    assert 0.0 < min(drawn) < max(drawn) < 1.0
    assert len(set(drawn)) == len(drawn)
    for tenth in range(10):
        assert sum(tenth <= 10 * x < tenth + 1 for x in drawn) == pytest.approx(1000, abs=130)


@given(weights=probabilities, point=u)
def test_a_draw_inverts_the_cumulative_distribution(weights, point):
    id_, logprob, near = draw_one(weights, point)
    ends = list(itertools.accumulate(shares_of(weights)))
    start, end = (ends[id_ - 1] if id_ else 0.0), ends[id_]
    assert start - 1e-6 <= point <= end + 1e-6
    assert logprob == pytest.approx(math.log(end - start), abs=1e-5)
    assert near or min(point - start, end - point) > NEAR / 2


@given(weights=probabilities, point=u)
def test_temperature_zero_takes_the_likeliest_for_certain(weights, point):
    id_, logprob, near = draw_one(weights, point, temperature=0.0)
    assert weights[id_] == pytest.approx(max(weights), rel=1e-6)
    assert (logprob, near) == (0.0, False)


@given(weights=probabilities, point=u, temperature=st.floats(0.3, 3.0))
def test_temperature_sharpens_the_distribution_drawn_from(weights, point, temperature):
    id_, logprob, _ = draw_one(weights, point, temperature=temperature)
    tempered = shares_of([weight ** (1 / temperature) for weight in weights])
    assert logprob == pytest.approx(math.log(tempered[id_]), abs=1e-4)


@given(
    weights=st.lists(st.integers(1, 1000), min_size=2, max_size=40, unique=True),
    point=u,
    top_p=st.floats(0.05, 0.95),
)
def test_top_p_draws_from_the_fewest_likeliest_tokens(weights, point, top_p):
    shares = sorted(shares_of(weights), reverse=True)
    sums = list(itertools.accumulate(shares))
    assume(all(abs(total - top_p) > 1e-5 for total in sums))
    size = next(i for i, total in enumerate(sums) if total >= top_p) + 1
    id_, logprob, _ = draw_one(weights, point, top_p=top_p)
    assert shares_of(weights)[id_] >= shares[size - 1]
    assert logprob == pytest.approx(math.log(shares_of(weights)[id_] / sums[size - 1]), abs=1e-5)


def test_top_p_renormalises():
    assert draw_one([0.5, 0.3, 0.2], 0.7, top_p=0.6) == (
        1,
        pytest.approx(math.log(0.3 / 0.8), abs=1e-6),
        False,
    )
    assert draw_one([0.5, 0.3, 0.2], 0.999, top_p=0.8)[0] == 1


def test_among_equally_likely_tokens_the_nucleus_takes_the_first():
    drawn = {draw_one([0.25] * 4, point / 100, top_p=0.5)[0] for point in range(1, 100)}
    assert drawn == {0, 1}


def test_a_draw_at_a_boundary_is_told():
    assert draw_one([0.5, 0.5], 0.5 + NEAR / 4)[2]
    assert not draw_one([0.5, 0.5], 0.5 + NEAR * 4)[2]


@given(data=st.data())
def test_a_row_is_drawn_alike_in_any_company(data):
    rows = data.draw(st.integers(2, 9))
    logits = torch.randn(rows, 113, generator=torch.Generator().manual_seed(rows))
    points = uniforms(list(range(rows)), [0] * rows)
    temperatures = data.draw(
        st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=rows, max_size=rows)
    )
    top_ps = data.draw(st.lists(st.sampled_from([0.5, 0.9, 1.0]), min_size=rows, max_size=rows))
    top_ks = data.draw(st.lists(st.sampled_from([0, 1, 7]), min_size=rows, max_size=rows))
    together = draw(
        logits, uniforms=points, temperatures=temperatures, top_ps=top_ps, top_ks=top_ks
    )
    for row in range(rows):
        one = slice(row, row + 1)
        alone = draw(
            logits[one],
            uniforms=points[one],
            temperatures=temperatures[one],
            top_ps=top_ps[one],
            top_ks=top_ks[one],
        )
        assert (alone.ids, alone.logprobs, alone.near) == (
            together.ids[one],
            together.logprobs[one],
            together.near[one],
        )


seeds = st.integers(0, 2**32)


@given(data=st.data())
def test_a_draw_keeps_to_the_likeliest(data):
    logits = torch.randn(1, 113, generator=torch.Generator().manual_seed(data.draw(seeds)))
    top_k = data.draw(st.integers(1, 20))
    drawn = draw(logits, uniforms=[data.draw(u)], temperatures=[1.0], top_ps=[1.0], top_ks=[top_k])
    assert drawn.ids[0] in logits[0].topk(top_k).indices.tolist()
    share = logits[0].softmax(-1)[drawn.ids[0]] / logits[0].softmax(-1).topk(top_k).values.sum()
    assert drawn.logprobs[0] == pytest.approx(share.log().item(), abs=1e-5)


def test_a_large_vocabulary_is_drawn_as_by_adding_up_token_by_token():
    logits = 3 * torch.randn(500, 5003, generator=torch.Generator().manual_seed(0))
    points = uniforms(list(range(500)), [0] * 500)
    drawn = draw(
        logits, uniforms=points, temperatures=[1.0] * 500, top_ps=[1.0] * 500, top_ks=[0] * 500
    )
    ends = logits.double().softmax(-1).cumsum(-1)
    expected = torch.searchsorted(ends, torch.tensor(points, dtype=torch.float64)[:, None])[:, 0]
    differ = [
        near
        for id_, near, other in zip(drawn.ids, drawn.near, expected.tolist(), strict=True)
        if id_ != other
    ]
    assert all(differ)
    assert len(differ) <= 2
