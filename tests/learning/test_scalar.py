import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, CohereConfig
from transformers.models.cohere import CohereForCausalLM

from charter.config import LoraConfig
from charter.encoding import Encoder
from charter.errors import BackendError, ConfigError
from charter.learning.pretrained import ADAPTER, made_trainable
from charter.learning.scalar import (
    load_scalar_model,
    padding_id,
    save_scalar_model,
    scalar_model,
)
from charter.learning.tree import Group, completion_rewards
from tests.encoding_templates import CHATML, byte_level, stops

PAD = 0
GROUPS = (
    Group((5, 6, 7), ((8, 9), (10, 11, 12, 4))),
    Group((5, 9), ((13,), (14, 4))),
)


@pytest.fixture
def vocabulary():
    return byte_level(CHATML)


def test_a_reward_model_has_the_backbone_of_the_language_model_and_its_own_copy(new_model):
    language = new_model().eval()
    scalar = scalar_model(language, pad_id=PAD, seed=0)
    row = torch.tensor([[5, 6, 7]])
    hidden = language.model(row).last_hidden_state
    assert torch.equal(scalar.model(row).last_hidden_state, hidden)
    with torch.no_grad():
        scalar.model.embed_tokens.weight.zero_()
    assert torch.equal(language.model(row).last_hidden_state, hidden)
    assert scalar.config.num_labels == 1
    assert scalar.training == language.training


def test_the_new_head_belongs_to_the_seed_and_begins_near_zero(new_model):
    def head(seed):
        return scalar_model(new_model(), pad_id=PAD, seed=seed).score.weight

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))
    rewards = completion_rewards(
        scalar_model(new_model(), pad_id=PAD, seed=1), GROUPS, layout="rows"
    )
    assert 0 < rewards.abs().max() < 1.0


def test_precision_stays_as_it_is(new_model):
    scalar = scalar_model(new_model().bfloat16(), pad_id=PAD, seed=0)
    assert {value.dtype for value in scalar.parameters()} == {torch.bfloat16}


def test_a_model_that_has_no_such_form_is_refused():
    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    model = CohereForCausalLM(CohereConfig(**sizes, num_attention_heads=1))
    with pytest.raises(ConfigError, match="cohere model cannot be given a scalar head"):
        scalar_model(model, pad_id=PAD, seed=0)


def test_padding_is_told_by_a_token_that_ends_no_response(vocabulary):
    encoder = Encoder.of(vocabulary, eos_ids=stops(vocabulary))
    assert padding_id(vocabulary, encoder) not in encoder.eos_ids
    vocabulary.pad_token = vocabulary.convert_ids_to_tokens(encoder.terminator)
    assert padding_id(vocabulary, encoder) not in encoder.eos_ids


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)], ids=["full", "lora"])
def test_a_saved_reward_model_gives_the_same_rewards_anywhere(
    lora, new_model, vocabulary, tmp_path
):
    encoder = Encoder.of(vocabulary, eos_ids=stops(vocabulary))
    pad_id = padding_id(vocabulary, encoder)
    language = new_model(vocab_size=len(vocabulary))
    model = made_trainable(scalar_model(language, pad_id=pad_id, seed=0), lora=lora, seed=0)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value += 0.05
    end = encoder.terminator
    groups = (Group((5, 6), ((8, 9, end), (10, end))), Group((5, 9, 7, 11), ((13, end),)))
    expected = completion_rewards(model.eval(), groups, layout="tree")
    save_scalar_model(
        model, tokenizer=vocabulary, encoder=encoder, directory=tmp_path, dtype=torch.float32
    )
    assert (tmp_path / ADAPTER).exists() == (lora is not None)
    again = load_scalar_model(tmp_path)
    assert torch.allclose(completion_rewards(again, groups, layout="rows"), expected, atol=1e-5)

    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    rows = [g.prompt + completion for g in groups for completion in g.completions]
    for side in ("left", "right"):
        tokenizer.padding_side = side
        batch = tokenizer.pad({"input_ids": [list(row) for row in rows]}, return_tensors="pt")
        assert torch.allclose(stock(**batch).logits[:, 0], expected, atol=1e-5)


def test_a_language_model_is_not_taken_for_a_reward_model(new_model, tmp_path):
    new_model().save_pretrained(tmp_path)
    with pytest.raises(BackendError, match="holds no reward model"):
        load_scalar_model(tmp_path)


def test_a_directory_that_is_not_there_is_an_error_that_says_so(tmp_path):
    with pytest.raises(BackendError, match="cannot be loaded"):
        load_scalar_model(tmp_path / "nothing")


def test_with_lora_the_head_is_trained_as_a_whole(new_model):
    scalar = scalar_model(new_model(), pad_id=PAD, seed=0)
    model = made_trainable(scalar, lora=LoraConfig(rank=2), seed=0, stage="reward")
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert any("score" in name for name in trained)
    assert all("lora_" in name or "score" in name for name in trained)
