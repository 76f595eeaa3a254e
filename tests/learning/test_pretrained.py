import pytest
import torch

from charter.config import LoraConfig
from charter.errors import ConfigError
from charter.learning.pretrained import made_trainable

IDS = torch.tensor([[5, 6, 7]])


def test_all_weights_are_trained_in_float32(new_model):
    model = made_trainable(new_model().to(torch.bfloat16), lora=None, seed=0)
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert all(value.requires_grad for value in model.parameters())


def test_lora_changes_adapters_only_and_begins_where_the_model_stands(new_model):
    before = new_model()(IDS).logits
    model = made_trainable(new_model(), lora=LoraConfig(rank=2), seed=0)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert torch.allclose(model(IDS).logits, before, atol=1e-6)


def test_the_adapters_beginnings_belong_to_the_seed(new_model):
    def beginnings(seed):
        model = made_trainable(new_model(), lora=LoraConfig(rank=2), seed=seed)
        return torch.cat([v.flatten() for v in model.parameters() if v.requires_grad])

    assert torch.equal(beginnings(1), beginnings(1))
    assert not torch.equal(beginnings(1), beginnings(2))


def test_a_target_that_is_no_layer_is_a_mistake_in_the_configuration(new_model):
    with pytest.raises(ConfigError, match=r"`finetune.lora` does not fit this model"):
        made_trainable(new_model(), lora=LoraConfig(targets=("no_such_layer",)), seed=0)


def test_dropout_ends_where_log_probabilities_are_compared(new_model):
    model = new_model()
    model.add_module("extra", torch.nn.Dropout(0.3))
    assert made_trainable(model, lora=None, seed=0).extra.p == 0.3
    assert made_trainable(model, lora=None, seed=0, dropout=False).extra.p == 0.0
