"""Trains the starter model: `python -m tools.starter.train --out DIR [--tokens N] [--seed N]`.

Writes a Hugging Face directory (fp16 weights) and `loss.jsonl`. On a CPU with bf16 matrix units
autocast is several times as fast as fp32; master weights stay in fp32.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tools.starter.batches import LessonEncoder, copying_batches, draw_batches
from tools.starter.content import World, load_world
from tools.starter.skills import draw_lesson
from tools.starter.tokenizer import END, PAD, token_id, train_tokenizer

LOG = logging.getLogger("tools.starter.train")

VOCABULARY = 1792
_TOKENIZER_LESSONS = 12_000
_PEAK_RATE = 2.5e-3
_WARM_UP_STEPS = 100
_COPYING_STEPS = 300
_LOG_EVERY = 50


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama of 2.8M parameters for this tokenizer."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.05,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        pad_token_id=token_id(tokenizer, PAD),
        eos_token_id=token_id(tokenizer, END),
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def fit_tokenizer(world: World, *, seed: int) -> PreTrainedTokenizerFast:
    """The tokenizer of this world's conversations."""
    rng = Random(seed)
    lessons = (draw_lesson(world, rng) for _ in range(_TOKENIZER_LESSONS))
    texts = (turn.message.content for lesson in lessons for turn in lesson)
    return train_tokenizer(texts, size=VOCABULARY)


def token_losses(logits: Tensor, ids: Tensor) -> Tensor:
    """Next-token cross-entropy, in nats, of every token but the first of each row."""
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none"
    )


def train(
    model: LlamaForCausalLM,
    batches: Iterator[tuple[Tensor, Tensor]],
    *,
    tokens: int,
    compiled: bool,
    log_path: Path,
) -> None:
    """Trains in place on `tokens` tokens; the rate rises for a while, then falls to zero.

    The log has the mean loss of the tokens that are taught (weight 1 or more).
    """
    step_model = torch.compile(model, dynamic=True) if compiled else model
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=_PEAK_RATE, betas=(0.9, 0.97), weight_decay=0.05, fused=True
    )
    seen, step, started, recent = 0, 0, time.monotonic(), 0.0
    with log_path.open("w") as log:
        while seen < tokens:
            ids, weights = next(batches)
            rate = _PEAK_RATE * min(1.0, (step + 1) / _WARM_UP_STEPS) * (1 - seen / tokens)
            optimizer.param_groups[0]["lr"] = rate
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = step_model(input_ids=ids, use_cache=False).logits
            losses, counted = token_losses(logits, ids), weights[:, 1:].flatten()
            loss = (losses * counted).sum() / counted.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            seen, step = seen + ids.numel(), step + 1
            recent += losses.detach()[counted >= 1].mean().item() / _LOG_EVERY
            if step % _LOG_EVERY == 0:
                row = {"step": step, "tokens": seen, "loss": round(recent, 4)}
                log.write(json.dumps(row) + "\n")
                log.flush()
                LOG.info("%s, %d tokens/s", row, seen / (time.monotonic() - started))
                recent = 0.0


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes weights in fp16, tokenizer, chat template and generation config."""
    model.generation_config = GenerationConfig(
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=12_000_000)
    parser.add_argument("--tokens-per-batch", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="slower to start, then 1.2x as fast")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    chosen.out.mkdir(parents=True, exist_ok=True)
    world = load_world()
    tokenizer = fit_tokenizer(world, seed=chosen.seed)
    model, rng = build_model(tokenizer), Random(chosen.seed)
    lessons = draw_batches(
        world, LessonEncoder(tokenizer), rng, tokens_per_batch=chosen.tokens_per_batch
    )
    train(
        model,
        chain(copying_batches(rng, steps=_COPYING_STEPS, vocabulary=VOCABULARY), lessons),
        tokens=chosen.tokens,
        compiled=chosen.compile,
        log_path=chosen.out / "loss.jsonl",
    )
    save(model, tokenizer, chosen.out)


if __name__ == "__main__":
    main()
