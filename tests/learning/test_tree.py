import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from charter.config import LoraConfig
from charter.learning.grids import grid_size
from charter.learning.pretrained import made_trainable
from charter.learning.tree import (
    Group,
    completion_logprobs,
    completion_rewards,
    fitting_layout,
    summed_by_completion,
)

VOCABULARY = 64
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 128,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": lambda: LlamaConfig(**SIZES),
    "qwen3": lambda: Qwen3Config(**SIZES),
    "gpt2": lambda: GPT2Config(**GPT2),
    "gemma2": lambda: Gemma2Config(**SIZES, sliding_window=64, final_logit_softcapping=0.5),
    "gemma3": lambda: Gemma3TextConfig(**SIZES, sliding_window=64),
    "gemma3-narrow": lambda: Gemma3TextConfig(**SIZES, sliding_window=8),
    "mistral-narrow": lambda: MistralConfig(**SIZES, sliding_window=8),
}
ENCODED_ONCE = ["tree", "shared"]


def ids(count, *, start=3):
    return tuple(3 + (start * 7 + 5 * at) % (VOCABULARY - 3) for at in range(count))


GROUPS = (
    Group(ids(5), (ids(4, start=1), ids(1, start=2), ids(7, start=3))),
    Group(ids(9), (ids(3, start=4), ids(6, start=5))),
    Group(ids(1), (ids(2, start=6),)),
)


def language_model(family="llama", **settings):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(FAMILIES[family](), **settings)


def reward_model(family="llama", **settings):
    torch.manual_seed(0)
    config = FAMILIES[family]()
    config.num_labels = 1
    return AutoModelForSequenceClassification.from_config(config, **settings)


def loss_and_gradient(score, model, groups, layout):
    model.zero_grad()
    values = score(model, groups, layout=layout)
    # Weights of both signs, so that no mistake cancels in a sum.
    loss = (values * torch.linspace(-1.0, 2.0, len(values))).sum()
    loss.backward()
    trained = [value for value in model.parameters() if value.requires_grad]
    gradient = [torch.zeros_like(v) if v.grad is None else v.grad for v in trained]
    return loss.item(), torch.cat([value.flatten() for value in gradient])


def assert_equals_rows(score, model, groups, layout, *, tolerance=1e-5):
    loss, gradient = loss_and_gradient(score, model, groups, layout)
    plain_loss, plain_gradient = loss_and_gradient(score, model, groups, "rows")
    assert loss == pytest.approx(plain_loss, abs=tolerance * max(1.0, abs(plain_loss)))
    assert plain_gradient.abs().max() > 0
    largest = max(1.0, plain_gradient.abs().max().item())
    assert (gradient - plain_gradient).abs().max().item() <= tolerance * largest


@pytest.mark.parametrize("layout", ["rows", *ENCODED_ONCE])
@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_are_those_of_each_dialogue_read_alone(family, layout):
    model = language_model(family).eval()
    alone = [
        model(torch.tensor([group.prompt + completion]))
        .logits[0, len(group.prompt) - 1 : -1]
        .log_softmax(dim=-1)[range(len(completion)), completion]
        for group in GROUPS
        for completion in group.completions
    ]
    logprobs = completion_logprobs(model, GROUPS, layout=layout)
    assert torch.allclose(logprobs, torch.cat(alone), atol=1e-5)


@pytest.mark.parametrize("layout", ["rows", *ENCODED_ONCE])
@pytest.mark.parametrize("family", FAMILIES)
def test_rewards_are_those_of_each_dialogue_read_alone(family, layout):
    model = reward_model(family).eval()
    alone = [
        model(torch.tensor([group.prompt + completion])).logits[0]
        for group in GROUPS
        for completion in group.completions
    ]
    rewards = completion_rewards(model, GROUPS, layout=layout)
    assert torch.allclose(rewards, torch.cat(alone), atol=1e-5)


@pytest.mark.parametrize("layout", ENCODED_ONCE)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gemma3"])
def test_every_layout_has_the_loss_and_gradient_of_rows(family, attention, layout):
    language = language_model(family, attn_implementation=attention).train()
    assert_equals_rows(completion_logprobs, language, GROUPS, layout)
    reward = reward_model(family, attn_implementation=attention).train()
    assert_equals_rows(completion_rewards, reward, GROUPS, layout)


def completions(longest):
    return st.lists(st.integers(1, longest), min_size=1, max_size=4)


@settings(max_examples=25)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), completions(7)), min_size=1, max_size=3),
    layout=st.sampled_from(ENCODED_ONCE),
    rewards=st.booleans(),
)
def test_groups_of_any_shape_are_read_alike(shapes, layout, rewards):
    groups = [
        Group(ids(prompt, start=at), tuple(ids(n, start=n + at) for n in lengths))
        for at, (prompt, lengths) in enumerate(shapes)
    ]
    score, make = (
        (completion_rewards, reward_model) if rewards else (completion_logprobs, language_model)
    )
    assert_equals_rows(score, make().train(), groups, layout)


@pytest.mark.parametrize("layout", ENCODED_ONCE)
def test_with_lora_only_adapters_and_the_new_head_learn_and_learn_the_same(layout):
    lora = LoraConfig(rank=2)
    language = made_trainable(language_model(), lora=lora, seed=1).train()
    reward = made_trainable(reward_model(), lora=lora, seed=1).train()
    for model in (language, reward):
        for name, value in model.named_parameters():
            if "lora_B" in name:  # zero at first, which leaves the other half no gradient
                nn.init.normal_(value, std=0.1)
    assert_equals_rows(completion_logprobs, language, GROUPS, layout)
    assert_equals_rows(completion_rewards, reward, GROUPS, layout)


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)], ids=["full", "lora"])
def test_gradient_checkpointing_changes_no_gradient(lora):
    plain = made_trainable(language_model(), lora=lora, seed=1).train()
    frugal = made_trainable(language_model(), lora=lora, seed=1, gradient_checkpointing=True)
    assert any(getattr(module, "gradient_checkpointing", False) for module in frugal.modules())
    _, expected = loss_and_gradient(completion_logprobs, plain, GROUPS, "rows")
    for layout in ("rows", "tree"):
        frugal.train()
        _, gradient = loss_and_gradient(completion_logprobs, frugal, GROUPS, layout)
        assert torch.allclose(gradient, expected, atol=1e-5)


def test_gradient_checkpointing_and_shared_keys_exclude_each_other():
    model = made_trainable(reward_model(), lora=None, seed=0, gradient_checkpointing=True).train()
    with pytest.raises(ValueError, match="gradient checkpointing"):
        completion_rewards(model, GROUPS, layout="shared")
    model.eval()
    assert completion_rewards(model, GROUPS, layout="shared").shape == (6,)


@pytest.mark.parametrize("layout", ENCODED_ONCE)
def test_bfloat16_differs_from_rows_by_its_rounding_alone(layout):
    # Eight bits of mantissa: one rounding is 2^-9 of a value, a few of them meet in a gradient.
    language, reward = language_model().bfloat16(), reward_model().bfloat16()
    assert_equals_rows(completion_logprobs, language.train(), GROUPS, layout, tolerance=2e-2)
    assert_equals_rows(completion_rewards, reward.train(), GROUPS, layout, tolerance=2e-2)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layout", ENCODED_ONCE)
def test_autocast_acts_in_the_models_own_forward(layout, attention):
    for make, score in ((language_model, completion_logprobs), (reward_model, completion_rewards)):
        model = make(attn_implementation=attention).train()
        exact = score(model, GROUPS, layout="rows")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            values = score(model, GROUPS, layout=layout)
            assert_equals_rows(score, model, GROUPS, layout, tolerance=2e-2)
        assert values.dtype == torch.float32
        assert torch.allclose(values, exact, atol=5e-2)
        assert not torch.equal(values, exact)


def test_a_reward_head_kept_in_float32_reads_a_half_precision_model():
    model = made_trainable(reward_model().bfloat16(), lora=LoraConfig(rank=2), seed=0)
    trained = {value.dtype for value in model.parameters() if value.requires_grad}
    assert trained == {torch.float32}
    assert completion_rewards(model, GROUPS, layout="tree").isfinite().all()


def test_the_head_runs_only_where_something_is_read_off():
    model, seen = language_model(), []
    model.lm_head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[0]))
    for layout in ("rows", "tree", "shared"):
        completion_logprobs(model, GROUPS, layout=layout)
    tokens = sum(len(completion) for group in GROUPS for completion in group.completions)
    # Encoded once, the end of a prompt predicts the first token of all its completions.
    inner = tokens - sum(len(group.completions) for group in GROUPS)
    assert seen == [tokens, len(GROUPS) + inner, len(GROUPS), inner]


def test_a_wrapped_model_is_read_through_its_wrapper():
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module
            self.calls = 0

        def forward(self, **inputs):
            self.calls += 1
            return self.module(**inputs)

    model = language_model().eval()
    wrapper = Wrapper(model)
    expected = completion_logprobs(model, GROUPS, layout="tree")
    assert torch.equal(completion_logprobs(wrapper, GROUPS, layout="tree"), expected)
    assert wrapper.calls == 1


def test_the_model_is_left_without_hooks():
    model = reward_model()
    completion_rewards(model, GROUPS, layout="tree")
    assert model(torch.tensor([ids(4)])).logits.shape == (1, 1)


def test_values_are_summed_by_completion():
    sums = summed_by_completion(torch.arange(23.0), GROUPS)
    assert sums.tolist() == [0 + 1 + 2 + 3, 4, 5 + 6 + 7 + 8 + 9 + 10 + 11, 39, 105, 43]


def test_tokens_are_counted_once_where_the_prompt_is_read_once():
    group = GROUPS[0]
    assert group.tokens == group.tokens_in("tree") == group.tokens_in("shared") == 5 + 12
    assert group.tokens_in("rows") == 3 * 5 + 12
    assert grid_size([group], "tree") == (17, 17 * 17)
    assert grid_size([group], "rows") == (36, 3 * 12 * 12)
    assert grid_size([group], "shared") == (26, 5 * 5 + 21 * 12)


@pytest.mark.parametrize(
    ("prompt", "completions", "message"),
    [((), ((1,),), "prompt"), ((1,), (), "no completion"), ((1,), ((2,), ()), "completion 1")],
)
def test_a_group_that_cannot_be_read_is_refused(prompt, completions, message):
    with pytest.raises(ValueError, match=message):
        Group(prompt, completions)


def test_no_group_is_refused():
    with pytest.raises(ValueError, match="no group"):
        completion_rewards(reward_model(), [], layout="rows")


def test_long_prompts_with_short_completions_are_read_once():
    group = Group(ids(60), (ids(4, start=1), ids(4, start=2)))
    assert fitting_layout(language_model(), probe=[group]) != "rows"
    assert fitting_layout(reward_model(), probe=[group]) != "rows"


def test_a_prompt_of_one_token_is_not_worth_a_mask():
    group = Group(ids(1), tuple(ids(60, start=at) for at in range(4)))
    assert fitting_layout(language_model(), probe=[group]) != "tree"


def test_keys_are_not_shared_where_gradients_are_checkpointed():
    group = Group(ids(20), tuple(ids(20, start=at) for at in range(8)))
    assert fitting_layout(language_model(), probe=[group]) == "shared"
    frugal = made_trainable(language_model(), lora=None, seed=0, gradient_checkpointing=True)
    assert fitting_layout(frugal, probe=[group]) != "shared"


def test_keys_are_not_shared_where_each_batch_is_read_by_one_call():
    group = Group(ids(20), tuple(ids(20, start=at) for at in range(8)))
    assert fitting_layout(language_model(), probe=[group], in_one_pass=True) != "shared"


def test_a_model_that_cannot_be_read_so_falls_back_to_rows_and_says_so(caplog):
    config = BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2)
    model = AutoModelForCausalLM.from_config(config).train()
    with caplog.at_level(logging.WARNING, logger="charter"):
        assert fitting_layout(model, probe=[Group(ids(30), (ids(3), ids(4)))]) == "rows"
    (record,) = caplog.records
    assert "tree" in record.message
    assert "shared" in record.message
    assert model.training


def test_a_head_whose_rewards_are_nothing_but_rounding_does_not_cost_the_layout():
    completions = ids(20, start=1), ids(20, start=2)
    # What layouts are tried out on: the shortest group, and half of its prompt.
    groups = [Group(ids(30)[start:], completions) for start in (0, 15)]
    model, read = reward_model().eval(), []
    handle = model.score.register_forward_hook(lambda _, inputs, __: read.append(inputs[0]))
    with torch.no_grad():
        completion_rewards(model, groups, layout="rows")
        handle.remove()
        ends = torch.cat(read).double().T
        weight = torch.linspace(-1.0, 1.0, len(ends), dtype=torch.float64)
        weight -= ends @ torch.linalg.lstsq(ends, weight[:, None]).solution[:, 0]
        model.score.weight.copy_(weight)
        rewards = completion_rewards(model, groups, layout="rows")
    assert rewards.abs().max() < 1e-5
    assert fitting_layout(model, probe=groups[:1]) == "shared"


@pytest.mark.parametrize("make", [language_model, reward_model])
def test_a_model_that_attends_otherwise_is_found_out(make, caplog):
    """One that ignores the mask it is given."""
    model = make()
    forward = model.model.forward

    def unmasked(*args, attention_mask=None, **kwargs):
        return forward(*args, attention_mask=None, **kwargs)

    model.model.forward = unmasked
    with caplog.at_level(logging.WARNING, logger="charter"):
        assert fitting_layout(model, probe=[Group(ids(30), (ids(3), ids(4)))]) == "rows"
    assert "differs" in caplog.text
