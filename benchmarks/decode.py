"""The engine's decode step against the matrix products alone that no step can do without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import tiny
from benchmarks.measuring import Figure, best_s, speedup
from charter.models.calls import Writing
from charter.models.network import Network
from charter.models.scheduler import Scheduler
from charter.records import Sampling

_PREFIX, _PROMPT = 256, 40
"""Tokens that all conversations share, and those of each alone."""
_BURSTS = 5
_ENOUGH = 512
"""Tokens to write: more than are measured, so that no slot falls empty meanwhile."""


def figures(*, quick: bool) -> Iterator[Figure]:
    """The share of the limit that a small and a middling model reach."""
    small, large, repeats = (4, 4, 1) if quick else (64, 32, 5)
    steps = 1 if quick else 6
    yield _figure("5m", tiny.model(), slots=small, steps=steps, repeats=repeats, goal=0.65)
    middling = _llama(layers=2, vocabulary=512) if quick else _llama()
    steps, repeats = (1, 1) if quick else (2, 3)
    yield _figure("135m", middling, slots=large, steps=steps, repeats=repeats, goal=0.90)


def weights(model: nn.Module) -> list[Tensor]:
    """The matrices that every step multiplies with; of the embeddings it only looks rows up."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Linear)]


def prompts(count: int, *, shared: int, own: int, vocabulary: int) -> list[list[int]]:
    """Ids of so many prompts, which begin with the same tokens."""
    rng = Random(0)
    first = rng.choices(range(vocabulary), k=shared)
    return [first + rng.choices(range(vocabulary), k=own) for _ in range(count)]


def writings(asked: Sequence[Sequence[int]], *, limit: int) -> list[Writing]:
    """Calls that all write so many tokens, whatever these are."""
    return [
        Writing(
            prompt=prompt,
            sampling=Sampling(max_new_tokens=limit),
            seed=number,
            limit=limit,
            eos_ids=frozenset(),
            number=number,
        )
        for number, prompt in enumerate(asked)
    ]


def decoding(network: Network, asked: Sequence[Sequence[int]]) -> Scheduler:
    """An engine all of whose slots are past their prompts: a step writes one token in each."""
    scheduler, calls = Scheduler(network, capacity=len(asked)), writings(asked, limit=_ENOUGH)
    for call in calls:
        scheduler.add(call)
    while any(len(call.token_ids) < 2 for call in calls):  # the second one: buffers are made
        scheduler.step()
    return scheduler


def _llama(*, layers: int = 30, vocabulary: int = 49152) -> LlamaForCausalLM:
    """Random weights in the shape of SmolLM-135M."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=layers,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


@torch.inference_mode()
def _figure(size: str, model: Any, *, slots: int, steps: int, repeats: int, goal: float) -> Figure:
    network, matrices = Network(model.eval()), weights(model)
    asked = prompts(slots, shared=_PREFIX, own=_PROMPT, vocabulary=model.config.vocab_size)
    rows = {matrix.shape[1]: torch.randn(slots, matrix.shape[1]) for matrix in matrices}

    def multiply() -> None:
        for matrix in matrices:
            functional.linear(rows[matrix.shape[1]], matrix)

    def step_s() -> float:
        # Begun again for each repeat, or conversations would grow from one to the next.
        return best_s(decoding(network, asked).step, times=steps, bursts=_BURSTS)

    return speedup(
        f"generation.decode_step.{size}",
        ours=step_s,
        theirs=lambda: best_s(multiply, times=steps, bursts=_BURSTS),
        repeats=repeats,
        goal=goal,
        against=f"the products of the same weights with {slots} rows, nothing else",
        unit="fraction",
    )
