import logging

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

from charter.learning.batches import collate
from charter.learning.logits import (
    all_positions,
    fastest_logits,
    precision_of,
    supervised_positions,
)
from charter.learning.objectives import token_loss

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


class Recording(TorchFunctionMode):
    """Sees every attention that runs under it."""

    def __init__(self):
        super().__init__()
        self.attentions = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is nn.functional.scaled_dot_product_attention:
            self.attentions.append(kwargs)
        return function(*args, **(kwargs or {}))


class PooledHead(nn.Module):
    """A model whose head may not be shown a part of the positions: it adds what it sees."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(64, 8)
        self.head = nn.Linear(8, 64)

    def forward(self, input_ids, use_cache):
        assert not use_cache
        scores = self.head(self.embed(input_ids))
        pooled = scores.mean(dim=-2, keepdim=True)
        return type("Output", (), {"logits": scores + pooled})()

    def get_output_embeddings(self):
        return self.head


class Headless(PooledHead):
    """A model that does not say where its head is."""

    def get_output_embeddings(self):
        return None


@pytest.fixture
def batch(new_examples):
    return collate(list(new_examples(5).values()))


def test_the_batch_is_what_the_plain_full_loss_sees(new_model, batch):
    model = new_model().eval()
    labels = torch.where(batch.supervised_BT.roll(1, dims=1), batch.ids_BT, -100)
    plain = model(input_ids=batch.ids_BT, labels=labels).loss
    ours = token_loss(supervised_positions(model, batch), batch.targets_S) / len(batch.targets_S)
    assert ours.item() == pytest.approx(plain.item(), abs=1e-6)


def test_padding_is_never_seen_though_there_is_no_mask(new_model, new_examples):
    model = new_model().eval()
    examples = list(new_examples(6).values())
    logits = supervised_positions
    together = logits(model, collate(examples))
    alone = torch.cat([logits(model, collate([example])) for example in examples])
    assert torch.allclose(together, alone, atol=1e-5)


def test_attention_runs_in_its_causal_form_without_a_mask(new_model, batch):
    model = new_model(attn_implementation="sdpa").train()
    with Recording() as seen:
        supervised_positions(model, batch)
    assert len(seen.attentions) == 2
    assert all(call["is_causal"] and call["attn_mask"] is None for call in seen.attentions)


def test_what_the_prompt_asks_for_costs_nothing(new_model, batch):
    model = new_model().eval()
    supervised = supervised_positions(model, batch)
    assert supervised.shape == (len(batch.targets_S), 64)


@pytest.mark.parametrize(
    "model",
    [
        Gemma2ForCausalLM(Gemma2Config(**SIZES, final_logit_softcapping=0.05)),
        CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25)),
    ],
    ids=["soft-capped", "scaled"],
)
def test_capped_and_scaled_logits_stay_the_models_own(model, batch, caplog):
    model.eval()
    fast = fastest_logits(model, probe=batch)
    assert fast is not all_positions
    assert torch.allclose(fast(model, batch), all_positions(model, batch), atol=1e-6)
    assert not caplog.records


def test_a_model_that_needs_all_positions_gets_them_and_that_is_said(batch, caplog):
    model = PooledHead()
    with caplog.at_level(logging.WARNING):
        logits = fastest_logits(model, probe=batch)
    assert logits is all_positions
    assert "every position" in caplog.text


def test_a_model_without_a_head_is_computed_plainly(batch, caplog):
    assert fastest_logits(Headless(), probe=batch) is all_positions
    assert "no output head" in caplog.text


def test_the_probe_leaves_the_model_as_it_was(new_model, batch):
    model = new_model().train()
    fastest_logits(model, probe=batch)
    assert model.training
    assert model(input_ids=batch.ids_BT).logits.shape == (*batch.ids_BT.shape, 64)


def test_a_model_on_a_gpu_is_taken_to_compute_in_half_precision(new_model):
    model = new_model()
    assert precision_of(model) == torch.float32
    assert precision_of(model.to(torch.bfloat16)) == torch.bfloat16
    assert precision_of(new_model().to("meta")) == torch.bfloat16  # as on any other device
