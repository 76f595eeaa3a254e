"""Tiny random models with a tokenizer of their own, made on the spot."""

from contextlib import contextmanager

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from charter.encoding import Encoder
from charter.models.loading import Loaded, fingerprint

WORDS = ["the", "order", "refund", "card", "please", "tell", "me", "my", "is", "it"]
WORDS += ["no", "yes", "sorry", "help", "can", "cannot"]
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@contextmanager
def threads(count):
    """PyTorch computes with so many, here and in threads that begin meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_threads():
    """A step that a test takes by itself changes how many threads the test's own thread uses."""
    with threads(torch.get_num_threads()):
        yield


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


_SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
PACKED = {
    "llama": (LlamaConfig, {"tie_word_embeddings": True}),
    "gpt2": (GPT2Config, {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "mistral": (MistralConfig, {"sliding_window": 16}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 16}),
    "phi": (PhiConfig, {"num_key_value_heads": 4}),
    "phi3": (Phi3Config, {"sliding_window": 16}),
    "gemma2": (Gemma2Config, {"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16}),
    "gemma3": (Gemma3TextConfig, {"head_dim": 16, "sliding_window": 16, "num_hidden_layers": 6}),
}
"""Rotary, learned, windowed, capped and normed: what runs in slots."""
PLAIN = {
    "lfm2": (Lfm2Config, {"layer_types": ["conv", "full_attention"]}),
    "mamba": (MambaConfig, {"state_size": 8}),
}
"""Layers with a state of their own: what the plain loop runs."""


def make_family(name, tokenizer):
    kind, own = {**PACKED, **PLAIN}[name]
    torch.manual_seed(1)
    shape = {} if name == "gpt2" else _SHAPE
    config = kind(vocab_size=len(tokenizer), **(shape | own))
    model = AutoModelForCausalLM.from_config(config)
    return as_loaded(sharpened(model, {"gpt2": 4.0, "mamba": 1.5}.get(name, 8.0)), tokenizer)


@pytest.fixture(scope="session", params=[*PACKED, *PLAIN])
def family(request, tokenizer):
    return make_family(request.param, tokenizer)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory, loaded):
    """The tiny model as Hugging Face writes it."""
    directory = tmp_path_factory.mktemp("tiny")
    loaded.model.save_pretrained(directory)
    loaded.tokenizer.save_pretrained(directory)
    return directory
