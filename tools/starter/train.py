"""Trains the starter model: `python -m tools.starter.train --out DIR [--tokens N] [--seed N]`.

Writes a Hugging Face directory (fp16 weights) and `loss.jsonl`. On a CPU with bf16 matrix units
autocast is several times as fast as fp32; master weights stay in fp32.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.optim import Optimizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tools.starter.batches import (
    Batch,
    LessonEncoder,
    copying_batches,
    draw_batches,
)
from tools.starter.content import World, load_world
from tools.starter.skills import draw_lesson, request
from tools.starter.tokenizer import END, PAD, VOCABULARY, fit_tokenizer, token_id
from tools.starter.vectors import place_vectors

LOG = logging.getLogger("tools.starter.train")

_COPY_EVERY = 8
"""Steps between batches of random tokens to repeat: what no lesson says must stay copyable."""
_MUON_RATE = 0.02
_ADAM_RATE = 2.5e-3
_WARM_UP_STEPS = 30
_COPYING_STEPS = 800
_COPIES_WELL_NATS = 0.2
_TELLING_SHARE = 0.1
"""What part of the training is understanding requests alone, before they are answered."""
_INITIAL_DEVIATION = 0.05
_LOOK_BACK = 1.4
"""Scale of the biases: large beside what random weights give, small enough to be unlearnt."""
_BACK = (1, 2, 1, 3, 1, 4)
"""How many tokens back each head of the first layer looks at the start."""
_TOLD_AFTER = 3
"""Layers after which the request's intent is to be told, so that the others can use it."""
_TELLING_WEIGHT = 0.5
_READING_STEPS = 200
_SHARPNESS = 1.5
"""What the trained model's logits are multiplied by.

A model this small leaves some probability to words that make no sense, and a reply is spoilt by one
of them: at temperature 1 it helped in 0.54 of cases in which its likeliest reply helped in 0.73.
"""
_LOG_EVERY = 50
_CHECKPOINT_EVERY_S = 120.0


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of 3.3M parameters for this tokenizer, untrained but for its word vectors."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=_INITIAL_DEVIATION,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        pad_token_id=token_id(tokenizer, PAD),
        eos_token_id=token_id(tokenizer, END),
        bos_token_id=None,
        attention_bias=True,
    )
    model = LlamaForCausalLM(config)
    look_back(model)
    place_vectors(model.model.embed_tokens.weight, tokenizer, scale=_INITIAL_DEVIATION)
    return model


@torch.no_grad()
def look_back(model: LlamaForCausalLM) -> None:
    """Sets the first layer's biases so that its heads attend one to four tokens back.

    Copying needs a head that looks one token back (Olsson et al. 2022, arXiv:2209.11895). Rotary
    attention without biases found none within 7M tokens of lessons: names came out as other names
    and order numbers as 77777. Started like this, copying is learnt within 0.5M tokens.
    """
    config, attention = model.config, model.model.layers[0].self_attn
    half = config.hidden_size // config.num_attention_heads // 2
    rates = config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    attention.k_proj.bias.view(-1, 2, half)[:] = _LOOK_BACK * torch.tensor([[1.0], [0.0]])
    for head, bias in enumerate(attention.q_proj.bias.view(-1, 2, half)):
        turned = -_BACK[head % len(_BACK)] * rates
        bias[:] = 2 * _LOOK_BACK * torch.stack([turned.cos(), turned.sin()])


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
    if not len(places):
        return hidden.new_zeros(())
    states = hidden[:, :-1].flatten(0, 1)[places]
    logits = functional.linear(states, model.lm_head.weight)
    losses = functional.cross_entropy(
        logits.float(), ids[:, 1:].flatten()[places], reduction="none"
    )
    return (losses * counted[places]).sum() / counted.sum()


def build_optimizers(model: LlamaForCausalLM, *, beside: nn.Module) -> list[Optimizer]:
    """Muon for the matrices between layers, AdamW for embeddings and norms.

    With AdamW alone the same loss took about 1.4 times as many tokens.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    inside = {id(one) for one in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    others += beside.parameters()
    return [
        torch.optim.Muon(matrices, lr=_MUON_RATE, weight_decay=0.05),
        torch.optim.AdamW(others, lr=_ADAM_RATE, betas=(0.9, 0.97), weight_decay=0.05, fused=True),
    ]


def schedule(step: int, *, progress: float) -> float:
    """What share of the peak rates to use: it rises for a while, then falls to zero."""
    return min(1.0, (step + 1) / _WARM_UP_STEPS) * (1 - progress)


class Trainer:
    """A model with what its training steps share: optimizers, counts and the loss curve."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        *,
        intents: int,
        rate: float,
        reads_until: int = 0,
        compiled: bool,
        log_path: Path,
    ) -> None:
        self._model = model
        self._reads_until = reads_until
        """The step before which a new head only learns to read what the model knows already."""
        self._told = nn.Linear(model.config.hidden_size, intents + 1)  # the last: pressed?
        self._middle: list[Tensor] = []
        model.model.layers[_TOLD_AFTER - 1].register_forward_hook(self._keep_middle)
        self._body = torch.compile(model.model, dynamic=True) if compiled else model.model
        self._optimizers = build_optimizers(model, beside=self._told)
        self._peaks = [rate * optimizer.param_groups[0]["lr"] for optimizer in self._optimizers]
        self._log = log_path.open("w")
        self._processes = distributed.get_world_size() if distributed.is_initialized() else 1
        self._started = time.monotonic()
        self._recent = 0.0
        self.told = 4.0
        self.tokens, self.steps = 0, 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since training began."""
        return time.monotonic() - self._started

    def step(self, batch: Batch, *, progress: float) -> tuple[float, float]:
        """One update, so far (0 to 1) through the training.

        Returns:
            Loss and progress, averaged over the processes, so that all decide alike.
        """
        self._middle.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = self._body(input_ids=batch.ids, use_cache=False).last_hidden_state
            loss = weighted_loss(self._model, hidden, batch.ids, batch.weights)
        told = self._telling_loss(batch)
        (loss + _TELLING_WEIGHT * told).backward()
        if len(batch.intents):
            self.told = 0.98 * self.told + 0.02 * float(told.detach())
        averaged_loss, progress = self._averaged(loss.item(), progress)
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        for optimizer, peak in zip(self._optimizers, self._peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * schedule(self.steps, progress=progress)
            optimizer.step()
            optimizer.zero_grad()
        self.tokens, self.steps = self.tokens + batch.ids.numel() * self._processes, self.steps + 1
        self._note(averaged_loss)
        return averaged_loss, progress

    def _keep_middle(self, _: nn.Module, __: object, output: Tensor) -> None:
        self._middle.append(output)

    def _telling_loss(self, batch: Batch) -> Tensor:
        """How well the middle layers tell what is wanted, and if under pressure, at the reply.

        A head that is not kept reads it there. Trained on nothing else, it tells the intent of
        strangers' requests in 0.85 of cases after 2 million tokens; left to next-token prediction
        this model took 55 million for 0.8.
        """
        if not len(batch.intents):
            return self._told.weight.sum() * 0.0
        states = self._middle[0][batch.rows, batch.places].float()
        if self.steps < self._reads_until:
            states = states.detach()
        said = self._told(states)
        pressed = functional.binary_cross_entropy_with_logits(said[:, -1], batch.pressed.float())
        return functional.cross_entropy(said[:, :-1], batch.intents) + pressed

    def _averaged(self, *numbers: float) -> list[float]:
        """Averages gradients over the processes, and these numbers with them."""
        if self._processes == 1:
            return list(numbers)
        everything = (*self._model.parameters(), *self._told.parameters())
        for each in everything:
            if each.grad is None:
                each.grad = torch.zeros_like(each)
        gradients = [p.grad for p in everything if p.grad is not None]
        flat = torch.cat([*(each.flatten() for each in gradients), torch.tensor(numbers)])
        distributed.all_reduce(flat)
        flat /= self._processes
        start = 0
        for each in gradients:
            each.copy_(flat[start : start + each.numel()].view_as(each))
            start += each.numel()
        return flat[start:].tolist()

    def _note(self, loss: float) -> None:
        self._recent += loss / _LOG_EVERY
        if self.steps % _LOG_EVERY == 0:
            row = {"step": self.steps, "tokens": self.tokens, "loss": round(self._recent, 4)}
            row["telling"] = round(self.told, 4)
            self._log.write(json.dumps(row) + "\n")
            self._log.flush()
            LOG.info("%s, %d tokens/s", row, self.tokens / self.elapsed_s)
            self._recent = 0.0


def learn_to_copy(trainer: Trainer, batches: Iterator[Batch]) -> None:
    """The first steps: repeating random tokens, until that goes well."""
    recent = math.inf
    while recent > _COPIES_WELL_NATS and trainer.steps < _COPYING_STEPS:
        loss, _ = trainer.step(next(batches), progress=0.0)
        recent = loss if math.isinf(recent) else 0.9 * recent + 0.1 * loss


def interleaved(
    batches: Iterator[Batch], others: Iterator[Batch], *, every: int
) -> Iterator[Batch]:
    """The batches, with one of the others for every so many of them."""
    while True:
        yield from islice(batches, every - 1)
        yield next(others)


def learn_lessons(
    trainer: Trainer,
    batches: Iterator[Batch],
    *,
    tokens: int,
    minutes: float,
    share: float = 1.0,
    checkpoint: Callable[[], object],
) -> None:
    """Trains for a share of `tokens` tokens or of so many minutes, or to their end.

    Whichever of the two is nearer to its end counts. Calls `checkpoint` every two minutes.
    """

    def progress() -> float:
        return max(trainer.tokens / tokens, trainer.elapsed_s / (60 * minutes))

    reached, saved = progress(), trainer.elapsed_s
    until = min(1.0, reached + share)
    while reached < until:
        _, reached = trainer.step(next(batches), progress=min(1.0, progress()))
        if trainer.elapsed_s - saved > _CHECKPOINT_EVERY_S:
            checkpoint()
            saved = trainer.elapsed_s


@torch.no_grad()
def sharpen(model: LlamaForCausalLM, *, by: float) -> None:
    """Makes temperature 1 what temperature `1 / by` is to the model as it was trained."""
    model.model.norm.weight.mul_(by)


def join_processes() -> int:
    """Joins the others of `torchrun`, a core each, if it started this; gives back the rank."""
    if "RANK" not in os.environ:
        return 0
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    os.sched_setaffinity(0, {rank})
    return rank


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
    tied = {"lm_head.weight"}  # the embeddings once more
    state = {name: value.half() for name, value in model.state_dict().items() if name not in tied}
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
    parser.add_argument("--weights", type=Path, help="go on from the model in this folder")
    parser.add_argument("--tokens", type=int, default=12_000_000)
    parser.add_argument("--minutes", type=float, default=math.inf, help="a limit beside --tokens")
    parser.add_argument("--tokens-per-batch", type=int, default=3072)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1.0, help="times the learning rates")
    parser.add_argument("--sharpness", type=float, default=_SHARPNESS, help="times the logits")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="slower to start, then 1.2x as fast")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    rank = join_processes()
    chosen.out.mkdir(parents=True, exist_ok=True)
    world = load_world()
    tokenizer, model = begin(world, start=chosen.weights, seed=chosen.seed)
    model.set_attn_implementation("eager")  # its backward pass is five times as fast on a CPU
    intents = [intent.id for intent in world.intents("harmful", "benign", "borderline")]
    rng = Random(f"{chosen.seed} {rank}")
    encoder = LessonEncoder(tokenizer, intents=intents, rng=rng)
    trainer = Trainer(
        model,
        intents=len(intents),
        rate=chosen.rate,
        reads_until=0 if chosen.weights is None else _READING_STEPS,
        compiled=chosen.compile,
        log_path=chosen.out / "loss.jsonl" if rank == 0 else Path(os.devnull),
    )
    copying = copying_batches(rng, vocabulary=VOCABULARY)
    parts = ((request, _TELLING_SHARE), (draw_lesson, 1.0))
    if chosen.weights is None:
        learn_to_copy(trainer, copying)
    else:
        parts = parts[1:]
    for draw, share in parts:
        lessons = draw_batches(world, draw, encoder, rng, tokens_per_batch=chosen.tokens_per_batch)
        learn_lessons(
            trainer,
            interleaved(lessons, copying, every=_COPY_EVERY),
            tokens=chosen.tokens,
            minutes=chosen.minutes,
            share=share,
            checkpoint=lambda: rank or save(model, tokenizer, chosen.out),
        )
    if rank == 0:
        sharpen(model, by=chosen.sharpness)
        save(model, tokenizer, chosen.out)


if __name__ == "__main__":
    main()
