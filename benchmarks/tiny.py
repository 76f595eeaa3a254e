"""The model that is measured: a Llama of 5 million random weights, with words for tokens."""

from __future__ import annotations

from random import Random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 4096
_CONTROL = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
_WORDS = tuple(f"w{number}" for number in range(VOCABULARY - len(_CONTROL) - 1))
_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer to which every text of `words` is as many ids, and every id a word."""
    vocabulary = {word: id_ for id_, word in enumerate((*_WORDS, "<unk>"))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=_TEMPLATE,
        eos_token=_CONTROL[0],
        pad_token=_CONTROL[0],
        additional_special_tokens=list(_CONTROL),
    )


def model() -> LlamaForCausalLM:
    """The same weights at every call."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=VOCABULARY - len(_CONTROL),
        )
    )


def words(count: int, *, rng: Random) -> str:
    """A text of so many tokens."""
    return " ".join(rng.choices(_WORDS, k=count))


def length(mean: float, *, spread: float, rng: Random, longest: int) -> int:
    """A log-normal length, as those of prompts and answers are."""
    drawn = rng.lognormvariate(0.0, spread) * mean
    return max(4, min(longest, round(drawn)))
