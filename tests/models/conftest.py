"""Tiny random models with a tokenizer of their own, made on the spot."""

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from charter.encoding import Encoder
from charter.models.loading import Loaded, fingerprint

WORDS = ["the", "order", "refund", "card", "please", "tell", "me", "my", "is", "it"]
WORDS += ["no", "yes", "sorry", "help", "can", "cannot"]
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer():
    letters = [chr(code) for code in range(32, 127)]
    vocabulary = {token: id_ for id_, token in enumerate([*letters, *WORDS, "<unk>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[a-z]+|."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=TEMPLATE,
        eos_token="<|end|>",
        additional_special_tokens=["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"],
    )


def sharpened(model, scale=8.0):
    """A fresh model is nearly indifferent; this one has preferences, so draws differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(scale)
    return model.eval()


def make_llama(tokenizer, **changes):
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": True,
    }
    return sharpened(LlamaForCausalLM(LlamaConfig(**shape | changes)))


def as_loaded(model, tokenizer):
    encoder = Encoder.of(tokenizer, eos_ids=None)
    return Loaded(
        name="tiny",
        model=model,
        tokenizer=tokenizer,
        encoder=encoder,
        fingerprint=fingerprint(model, encoder=encoder),
    )


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def loaded(tokenizer):
    return as_loaded(make_llama(tokenizer), tokenizer)


@pytest.fixture(scope="session", params=["llama", "gpt2", "mistral"])
def family(request, tokenizer):
    """Rotary, learned and windowed positions: the last cannot be joined with others."""
    common = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": None}
    torch.manual_seed(1)
    match request.param:
        case "gpt2":
            config = GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=256, **common)
            return as_loaded(sharpened(GPT2LMHeadModel(config), 4.0), tokenizer)
        case "mistral":
            config = MistralConfig(
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                intermediate_size=128,
                sliding_window=16,
                **common,
            )
            return as_loaded(sharpened(MistralForCausalLM(config)), tokenizer)
        case _:
            return as_loaded(make_llama(tokenizer), tokenizer)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory, loaded):
    """The tiny model as Hugging Face writes it."""
    directory = tmp_path_factory.mktemp("tiny")
    loaded.model.save_pretrained(directory)
    loaded.tokenizer.save_pretrained(directory)
    return directory
