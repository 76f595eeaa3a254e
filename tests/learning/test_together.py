import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Qwen3Config

from charter.learning.grids import Group
from charter.learning.pairs import (
    Pair,
    Sides,
    by_comparison,
    dpo_task,
    reward_task,
    together,
)
from charter.learning.scalar import scalar_model

CONFIG = Qwen3Config(
    vocab_size=24,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    max_position_embeddings=64,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=0,
)
ASKED = (1, 4, 9)
SHORT, LONG, OTHER = (10, 2), (11, 12, 13, 2), (14, 2)

responses = st.lists(st.integers(3, 23), min_size=1, max_size=5).map(tuple)
pairs_of_few_prompts = st.lists(
    st.builds(
        lambda prompt, chosen, rejected, p: Pair(Group(prompt, (chosen, rejected)), p),
        st.sampled_from([ASKED, (1, 5)]),
        responses,
        responses,
        st.floats(0.0, 1.0),
    ),
    min_size=1,
    max_size=6,
).map(lambda pairs: {f"pair-{number}": pair for number, pair in enumerate(pairs)})


def pair(chosen, rejected, *, prompt=ASKED, p_chosen=1.0):
    return Pair(Group(prompt, (chosen, rejected)), p_chosen)


def language_model():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG).eval()


def loss_and_slopes(model, task, items):
    model.zero_grad()
    loss = task.loss(model, list(items))
    loss.backward()
    slopes = [value.grad for value in model.parameters() if value.grad is not None]
    return loss.item(), torch.cat([slope.flatten() for slope in slopes])


def test_a_prompt_and_each_of_its_responses_is_read_once():
    pairs = {
        "a": pair(SHORT, LONG),
        "b": pair(SHORT, OTHER, prompt=(1, 5)),
        "c": pair(OTHER, SHORT, p_chosen=0.7),
    }
    compared = together(pairs, layout="tree", tokens_per_batch=64)
    assert list(compared) == ["a", "b"]
    assert compared["a"].group == Group(ASKED, (SHORT, LONG, OTHER))
    assert compared["a"].sides == {"a": Sides(0, 1, 1.0), "c": Sides(2, 0, 0.7)}


@pytest.mark.parametrize(("budget", "read"), [(11, 1), (10, 2), (1, 3)])
def test_a_prompt_with_more_than_a_batch_holds_is_read_several_times(budget, read):
    pairs = {"a": pair(SHORT, LONG), "b": pair(LONG, SHORT), "c": pair(SHORT, OTHER)}
    compared = together(pairs, layout="tree", tokens_per_batch=budget)
    assert len(compared) == read
    assert [name for one in compared.values() for name in one.sides] == ["a", "b", "c"]


def test_in_rows_each_response_has_a_copy_of_its_prompt_to_fit_in():
    pairs = {"a": pair(SHORT, LONG), "b": pair(SHORT, OTHER)}
    assert len(together(pairs, layout="rows", tokens_per_batch=17)) == 1
    assert len(together(pairs, layout="rows", tokens_per_batch=16)) == 2


def test_every_comparison_gets_the_values_of_its_own_responses():
    pairs = {"a": pair(SHORT, LONG), "b": pair(OTHER, SHORT)}
    compared = together(pairs, layout="tree", tokens_per_batch=64)
    values = by_comparison(compared, {"a": (0.1, 0.2, 0.3)})
    assert values == {"a": (0.1, 0.2), "b": (0.3, 0.1)}


@settings(max_examples=20, deadline=None)
@given(pairs=pairs_of_few_prompts, layout=st.sampled_from(["rows", "tree", "shared"]))
def test_a_reward_model_learns_the_same_of_comparisons_together_as_of_each_alone(pairs, layout):
    model = scalar_model(language_model(), pad_id=0, seed=0)

    def task(budget):
        compared = together(pairs, layout=layout, tokens_per_batch=budget)
        return reward_task(compared, layout=layout, margin=0.3, centre=0.1, stage="reward")

    alone, joint = task(1), task(512)
    assert alone.units_of(list(alone.units)) == joint.units_of(list(joint.units)) == len(pairs)
    assert alone.examples == joint.examples == len(pairs)
    loss, slopes = loss_and_slopes(model, alone, alone.lengths)
    joint_loss, joint_slopes = loss_and_slopes(model, joint, joint.lengths)
    assert joint_loss == pytest.approx(loss, abs=1e-5)
    assert torch.allclose(joint_slopes, slopes, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(pairs=pairs_of_few_prompts, layout=st.sampled_from(["rows", "tree", "shared"]))
def test_dpo_learns_the_same_of_comparisons_together_as_of_each_alone(pairs, layout):
    model = language_model()

    def task(budget):
        compared = together(pairs, layout=layout, tokens_per_batch=budget)
        # What the reference says depends on the response alone.
        reference = {
            name: tuple(-0.1 * sum(ids) for ids in one.group.completions)
            for name, one in compared.items()
        }
        return dpo_task(compared, layout=layout, reference=reference, beta=0.1, stage="dpo")

    alone, joint = task(1), task(512)
    loss, slopes = loss_and_slopes(model, alone, alone.lengths)
    joint_loss, joint_slopes = loss_and_slopes(model, joint, joint.lengths)
    assert joint_loss == pytest.approx(loss, abs=1e-5)
    assert torch.allclose(joint_slopes, slopes, atol=1e-5)
