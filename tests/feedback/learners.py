"""A tiny pupil and preferences that can be checked by hand: a response with the word "see" wins."""

import random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from charter.console import Silent
from charter.constitution import Constitution, Principle
from charter.encoding import Encoder
from charter.learning.lesson import Places
from charter.learning.pupil import Pupil
from charter.records import Origin, PreferencePair, assistant, user

WINNER = "see"
WORDS = ["may", "i", "have", "my", "order", "number", "yes", "no", "please", "thanks"]
CONTROL = ["<pad>", "<|im_start|>", "<|im_end|>", "system", "user", "assistant", "\n", "<unk>"]
RULES = Constitution(
    name="support", principles=(Principle(id="ids", rule="Never ask for an SSN."),)
)


def new_pupil(**changes):
    """A model of two layers that reads words, the same weights at every call."""
    vocabulary = {token: number for number, token in enumerate([*CONTROL, *WORDS, WINNER])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    fields = {
        "source": "tiny",
        "model": LlamaForCausalLM(config),
        "tokenizer": tokenizer,
        "encoder": Encoder.of(tokenizer, eos_ids=None, template="chatml"),
        "fingerprint": "tiny",
        "context": config.max_position_embeddings,
    }
    return Pupil(**(fields | changes))


def preference(number, *, p_chosen=1.0, source="judge", principle_ids=("ids",), **changes):
    """A preference that any seed, order or machine makes alike."""
    draws = random.Random(number)

    def words(count):
        return [draws.choice(WORDS) for _ in range(count)]

    chosen, rejected = words(draws.randint(2, 6)), words(draws.randint(2, 6))
    chosen[draws.randrange(len(chosen))] = WINNER
    fields = {
        "id": f"pair-{number}",
        "prompt": (user(" ".join(words(5))),),
        "chosen": (assistant(" ".join(chosen)),),
        "rejected": (assistant(" ".join(rejected)),),
        "p_chosen": p_chosen,
        "provenance": Origin(
            prompt_id=f"prompt-{number}",
            kind="harmful",
            source=source,
            principle_ids=principle_ids,
            seed=0,
            policy="m",
            judge="j",
            constitution=RULES.hash,
        ),
    }
    return PreferencePair(**(fields | changes))


def taught_into(directory, train, *, section, pupil=None, **changes):
    """What `train`, which is `reward` or `dpo`, makes of a fresh pupil."""
    options = {
        "preferences": [preference(number) for number in range(160)],
        "validation": [preference(number) for number in range(1000, 1060)],
        "progress": Silent(),
        "seed": 1,
    } | changes
    return train(
        options.pop("preferences"),
        section=section,
        pupil=pupil or new_pupil(),
        constitution=RULES,
        places=Places(
            out=directory / "model",
            checkpoints=directory / "checkpoints",
            metrics=directory / "metrics" / "training.jsonl",
        ),
        **options,
    )


class InterruptedAfter(Silent):
    """Progress whose user presses Ctrl-C after so many steps."""

    def __init__(self, steps):
        self.left = steps

    def advance(self, steps=1, **_):
        self.left -= steps
        if steps and self.left <= 0:
            raise KeyboardInterrupt
