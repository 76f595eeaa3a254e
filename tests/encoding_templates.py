"""Small tokenizers for every chat template that the encoding is checked on."""

import re
from functools import cache
from importlib.resources import files

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from charter.encoding import Encoder

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + "
    "'<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + m.content.strip() + ' [/INST]' }}{% elif m.role == 'assistant' %}"
    "{{ ' ' + m.content.strip() + ' ' + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}"
    "{% endif %}{% endfor %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
THINKS = CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}")

OWN = {
    "chatml": CHATML,
    "llama3-like": LLAMA3,
    "no-system": NO_SYSTEM + CHATML,
    "drops-system": CHATML.replace("in messages %}", "in messages if m.role != 'system' %}"),
    "thinks": THINKS,
}
TRL = {
    path.name.removesuffix(".jinja"): path.read_text(encoding="utf-8")
    for path in sorted(files("trl").joinpath("chat_templates").iterdir(), key=lambda p: p.name)
    if path.name.endswith(".jinja")
}
ALL = {**OWN, **TRL}
DATED = {name for name, source in ALL.items() if "strftime_now" in source}
PARTS = {"idefics3", "smolvlm", "llava_next"}
DROPS_THOUGHT = {"thinks", *(name for name in TRL if name.startswith("deepseek"))}
"""A finished turn is written without the thought that the generation prompt opens."""

_CONTROL = re.compile(r"<[^<>\s'\"{}\\]+>|\[gMASK\]")
_ENDS = (
    "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|end|>", "<|return|>", "<|eot|>",
    "<|END_OF_TURN_TOKEN|>", "<|user|>", "<end_of_utterance>",
    "<\uff5cend▁of▁sentence\uff5c>", "</s>",
)  # fmt: skip
_CORPUS = ["user assistant system model\n\nHello there, can you help me? Yes, I can.\n"] * 3


@cache
def _byte_level_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer.to_str()


def byte_level(template: str | None, *, added: tuple[str | AddedToken, ...] = ()):
    """A byte-level tokenizer with the control tokens of a template, special or not."""
    backend = Tokenizer.from_str(_byte_level_json())
    names = sorted(set(_CONTROL.findall(template or "")))
    special = [name for name in names if "|" in name or "turn" in name]
    backend.add_special_tokens(["<BOS>", "<EOS>", *special])
    backend.add_tokens([name for name in names if name not in special])
    backend.add_tokens(list(added))
    return wrapped(backend, template)


def wrapped(backend: Tokenizer, template: str | None, *, bos="<BOS>", eos="<EOS>"):
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=eos, chat_template=template
    )


def adds_bos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer, now writing BOS before plain text."""
    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    return tokenizer


@cache
def sentencepiece_like(template: str, *, legacy: bool, normalized: bool = False):
    """Llama 2's kind: words marked by a leading ▁, bytes for what the vocabulary lacks."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += sorted(set("abcdefghijklmnopqrstuvwxyzHYI[]/.,?<>|_"))
    merges = [("▁", "H"), ("e", "l"), ("▁H", "el"), ("l", "o"), ("▁Hel", "lo"), ("▁", "▁")]
    pieces += [left + right for left, right in merges]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    if legacy:
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.add_tokens(
        [
            AddedToken(name, normalized=normalized)
            for name in sorted(set(_CONTROL.findall(template)))
        ]
    )
    return adds_bos(wrapped(backend, template, bos="<s>", eos="</s>"))


def stops(tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """What a model with this tokenizer would stop at."""
    vocab = tokenizer.get_vocab()
    return {tokenizer.eos_token_id} | {vocab[end] for end in _ENDS if end in vocab}


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    return byte_level(ALL[name])


@cache
def encoder_of(name: str) -> Encoder:
    tokenizer = tokenizer_of(name)
    return Encoder.of(tokenizer, eos_ids=stops(tokenizer))
