"""Trains the starter model: `python -m tools.starter.train --out DIR [--tokens N] [--seed N]`.

Writes a Hugging Face directory (fp16 weights) and `loss.jsonl`. On a CPU with bf16 matrix units
autocast is several times as fast as fp32; master weights stay in fp32.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tools.starter.batches import LessonEncoder, copying_batches, draw_batches
from tools.starter.content import World, load_world
from tools.starter.skills import draw_lesson
from tools.starter.tokenizer import END, PAD, token_id, train_tokenizer

LOG = logging.getLogger("tools.starter.train")

VOCABULARY = 1792
_TOKENIZER_LESSONS = 12_000
_MUON_RATE = 0.02
_ADAM_RATE = 2.5e-3
_WARM_UP_STEPS = 100
_COPYING_STEPS = 200
_LOG_EVERY = 50
_CHECKPOINT_EVERY_S = 120.0


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama of 2.9M parameters for this tokenizer."""
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


def begin(
    world: World, *, start: Path | None, seed: int
) -> tuple[PreTrainedTokenizerFast, LlamaForCausalLM]:
    """A new tokenizer and model, or those in `start`."""
    if start is None:
        tokenizer = fit_tokenizer(world, seed=seed)
        return tokenizer, build_model(tokenizer)
    model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
    return PreTrainedTokenizerFast.from_pretrained(start), model


def weighted_loss(model: LlamaForCausalLM, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Mean next-token cross-entropy over the weighted tokens, in nats.

    Only positions that count get logits.
    """
    counted = weights[:, 1:].flatten()
    places = counted.nonzero().squeeze(1)
    states = hidden[:, :-1].flatten(0, 1)[places]
    logits = functional.linear(states, model.lm_head.weight)
    losses = functional.cross_entropy(
        logits.float(), ids[:, 1:].flatten()[places], reduction="none"
    )
    return (losses * counted[places]).sum() / counted.sum()


def build_optimizers(model: LlamaForCausalLM) -> list[Optimizer]:
    """Muon for the matrices between layers, AdamW for embeddings and norms.

    With AdamW alone the same loss took about 1.4 times as many tokens.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    inside = {id(one) for one in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(matrices, lr=_MUON_RATE, weight_decay=0.05),
        torch.optim.AdamW(others, lr=_ADAM_RATE, betas=(0.9, 0.97), weight_decay=0.05, fused=True),
    ]


def schedule(step: int, *, progress: float) -> float:
    """What share of the peak rates to use: it rises for a while, then falls to zero."""
    return min(1.0, (step + 1) / _WARM_UP_STEPS) * (1 - progress)


def train(
    model: LlamaForCausalLM,
    batches: Iterator[tuple[Tensor, Tensor]],
    *,
    tokens: int,
    minutes: float,
    compiled: bool,
    log_path: Path,
    checkpoint: Callable[[], None],
) -> None:
    """Trains in place on `tokens` tokens or for so many minutes, whichever ends first.

    Calls `checkpoint` every two minutes.
    """
    body = torch.compile(model.model, dynamic=True) if compiled else model.model
    optimizers = build_optimizers(model)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    seen, step, recent, progress = 0, 0, 0.0, 0.0
    started = saved = time.monotonic()
    with log_path.open("w") as log:
        while progress < 1:
            ids, weights = next(batches)
            for optimizer, peak in zip(optimizers, peaks, strict=True):
                rate = peak * schedule(step, progress=progress)
                optimizer.param_groups[0]["lr"] = rate
            with torch.autocast("cpu", dtype=torch.bfloat16):
                hidden = body(input_ids=ids, use_cache=False).last_hidden_state
                loss = weighted_loss(model, hidden, ids, weights)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            seen, step = seen + ids.numel(), step + 1
            elapsed_s = time.monotonic() - started
            progress = max(seen / tokens, elapsed_s / (60 * minutes))
            recent += loss.item() / _LOG_EVERY
            if step % _LOG_EVERY == 0:
                row = {"step": step, "tokens": seen, "loss": round(recent, 4)}
                log.write(json.dumps(row) + "\n")
                log.flush()
                LOG.info("%s, %d tokens/s", row, seen / elapsed_s)
                recent = 0.0
            if time.monotonic() - saved > _CHECKPOINT_EVERY_S:
                checkpoint()
                saved = time.monotonic()


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
    state = {name: value.half() for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="go on from the model in this folder")
    parser.add_argument("--tokens", type=int, default=12_000_000)
    parser.add_argument("--minutes", type=float, default=math.inf, help="a limit beside --tokens")
    parser.add_argument("--tokens-per-batch", type=int, default=3072)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="slower to start, then 1.2x as fast")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    chosen.out.mkdir(parents=True, exist_ok=True)
    world = load_world()
    tokenizer, model = begin(world, start=chosen.start, seed=chosen.seed)
    model.set_attn_implementation("eager")  # its backward pass is five times as fast on a CPU
    rng, encoder = Random(chosen.seed), LessonEncoder(tokenizer)
    copying_steps = 0 if chosen.start else _COPYING_STEPS
    batches = chain(
        copying_batches(rng, steps=copying_steps, vocabulary=VOCABULARY),
        draw_batches(world, encoder, rng, tokens_per_batch=chosen.tokens_per_batch),
    )
    train(
        model,
        batches,
        tokens=chosen.tokens,
        minutes=chosen.minutes,
        compiled=chosen.compile,
        log_path=chosen.out / "loss.jsonl",
        checkpoint=lambda: save(model, tokenizer, chosen.out),
    )
    save(model, tokenizer, chosen.out)


if __name__ == "__main__":
    main()
