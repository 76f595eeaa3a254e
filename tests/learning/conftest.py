import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from charter.encoding import Example
from charter.learning.recipe import Recipe

VOCABULARY = 64


@pytest.fixture
def new_model():
    """Makes a tiny Llama with random weights."""

    def make(*, seed=0, **settings):
        torch.manual_seed(seed)
        sizes = {
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 128,
            "tie_word_embeddings": True,
        }
        return LlamaForCausalLM(LlamaConfig(**(sizes | settings)))

    return make


@pytest.fixture
def new_examples():
    """Makes examples of random tokens, of which the last few are supervised."""

    def make(count, *, seed=0, longest=24, name="row"):
        draws = random.Random(seed)
        lengths = [draws.randint(6, longest) for _ in range(count)]
        return {
            f"{name}-{number}": Example(
                ids=tuple(draws.randrange(3, VOCABULARY) for _ in range(length)),
                prompt_length=length - draws.randint(2, 5),
            )
            for number, length in enumerate(lengths)
        }

    return make


@pytest.fixture
def recipe():
    return Recipe(
        lr=3e-3,
        epochs=2.0,
        tokens_per_batch=96,
        accumulate=1,
        warmup_share=0.1,
        weight_decay=0.0,
        max_grad_norm=1.0,
        validate_every=3,
        patience=100,
        min_delta=0.0,
    )
