"""The engine on a GPU: its speed, its share of the memory's bandwidth, and transformers beside it.

Weights are random, in the shapes of Qwen2.5. Prompts share nothing and all answers are of one
length, which suits `generate` best: its batches have neither padding nor idle rows.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    ContinuousBatchingConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from benchmarks.decode import decoding, prompts, weights, writings
from benchmarks.measuring import Figure, best_s, in_turn, speedup, summary
from charter.models.network import Network
from charter.models.scheduler import Scheduler

_BURSTS, _STEPS = 5, 8
_PAGE = 256
"""Tokens of a page of continuous batching: its default."""


@dataclass(frozen=True)
class Work:
    """What a model is asked for, and how often."""

    slots: tuple[int, ...]
    """How many conversations at once, one figure after the other."""
    prompt: int
    """Tokens of each prompt."""
    answer: int
    """Tokens of each answer."""
    copied_bytes: int
    """How much is copied to learn the memory's bandwidth."""
    repeats: int


def figures(*, quick: bool) -> Iterator[Figure]:
    """All figures of models of three sizes; none without a GPU."""
    if not torch.cuda.is_available():
        print(
            "gpu is left out: it needs a CUDA device of 40 GB, and a PyTorch built for CUDA",
            file=sys.stderr,
        )
        return
    work = Work(slots=(1, 32, 256), prompt=128, answer=128, copied_bytes=2**30, repeats=3)
    if quick:
        work = Work(slots=(1, 4), prompt=8, answer=8, copied_bytes=2**24, repeats=1)
    for name, config in ({"tiny": tiny_shape()} if quick else _shapes()).items():
        yield from of_model(name, config, work, device=torch.device("cuda"))


def of_model(
    name: str, config: PreTrainedConfig, work: Work, *, device: torch.device
) -> Iterator[Figure]:
    """All figures of a model; one that fails is left out, and stderr says why."""
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    for slots in work.slots:
        for measure in (_bandwidth, _against_generate, _against_continuous_batching):
            torch.cuda.empty_cache()
            try:
                yield from measure(f"gpu.{name}.{slots}", model, work, slots)
            except (RuntimeError, MemoryError, ValueError) as error:  # each says: no room
                print(f"gpu.{name}.{slots}: {measure.__name__} failed, {error}", file=sys.stderr)


def tiny_shape() -> PreTrainedConfig:
    """A model to try the benchmark with."""
    return _qwen(64, layers=2, heads=2, key_heads=1, inner=128, vocabulary=256, tied=True)


def _shapes() -> dict[str, PreTrainedConfig]:
    return {
        "0.5b": _qwen(896, layers=24, heads=14, key_heads=2, inner=4864, tied=True),
        "1.5b": _qwen(1536, layers=28, heads=12, key_heads=2, inner=8960, tied=True),
        "7b": _qwen(3584, layers=28, heads=28, key_heads=4, inner=18944, tied=False),
    }


def _qwen(
    width: int,
    *,
    layers: int,
    heads: int,
    key_heads: int,
    inner: int,
    tied: bool,
    vocabulary: int = 151_936,
) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,  # so that every answer has its full length
    )


@torch.inference_mode()
def _bandwidth(figure: str, model: PreTrainedModel, work: Work, slots: int) -> Iterator[Figure]:
    """A step must read all weights once: the time that takes, as a share of the step's."""
    network = Network(model)
    read = sum(matrix.numel() * matrix.element_size() for matrix in weights(model))
    source = torch.zeros(work.copied_bytes, dtype=torch.uint8, device=model.device)
    target = torch.empty_like(source)
    clock = _clock(model.device)

    def copy_s() -> float:
        return best_s(lambda: target.copy_(source), times=_STEPS, bursts=_BURSTS, clock=clock)

    def step_s() -> float:
        scheduler = decoding(network, _prompts(model, work, slots))
        return best_s(scheduler.step, times=_STEPS, bursts=_BURSTS, clock=clock)

    yield speedup(
        f"{figure}.bandwidth",
        ours=step_s,
        theirs=lambda: copy_s() * read / (2 * work.copied_bytes),  # a copy reads and writes
        repeats=work.repeats,
        goal=None,
        against="reading the weights once, as fast as this device copies",
        unit="fraction",
    )


def _against_generate(
    figure: str, model: PreTrainedModel, work: Work, slots: int
) -> Iterator[Figure]:
    pairs = list(
        in_turn(
            _timed(write, model, work, slots),
            _timed(write_stock, model, work, slots),
            repeats=work.repeats,
        )
    )
    against = f"transformers generate, a batch of {slots}"
    rates = [slots * work.answer / own for own, _ in pairs]
    yield summary(f"{figure}.tokens", rates, unit="tokens/s", goal=None, against=against)
    ratios = [other / own for own, other in pairs]
    yield summary(f"{figure}.generate", ratios, unit="x", goal=None, against=against)


def _against_continuous_batching(
    figure: str, model: PreTrainedModel, work: Work, slots: int
) -> Iterator[Figure]:
    try:
        yield speedup(
            f"{figure}.continuous_batching",
            ours=_timed(write, model, work, slots),
            theirs=_timed(write_continuously, model, work, slots),
            repeats=work.repeats,
            goal=None,
            against=f"transformers generate_batch of {slots}, its manager kept",
        )
    finally:  # it was made for this many, and holds much of the memory
        cast("Any", model).destroy_cached_continuous_batching_manager()


@torch.inference_mode()
def write(model: PreTrainedModel, asked: list[list[int]], *, answer: int) -> int:
    """Answers by the engine; gives the tokens written."""
    scheduler = Scheduler(Network(model), capacity=len(asked))
    calls = writings(asked, limit=answer)
    for call in calls:
        scheduler.add(call)
    while scheduler.busy:
        scheduler.step()
    return sum(len(call.token_ids) for call in calls)


def write_stock(model: PreTrainedModel, asked: list[list[int]], *, answer: int) -> int:
    """Answers by `generate`, in one batch; gives the tokens written."""
    ids = torch.tensor(asked, device=model.device)
    output = cast("Any", model).generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_config=_sampled(answer),
    )
    return output[:, ids.shape[1] :].numel()


def write_continuously(model: PreTrainedModel, asked: list[list[int]], *, answer: int) -> int:
    """Answers by continuous batching; gives the tokens written."""
    pages = math.ceil((max(map(len, asked)) + answer) / _PAGE)
    outputs = cast("Any", model).generate_batch(
        asked,
        generation_config=_sampled(answer, eos_token_id=-1),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=_PAGE,
            num_blocks=2 * pages * len(asked) + 2,  # by itself it takes all of the memory
        ),
        persistent_manager=True,
    )
    return sum(len(output.generated_tokens) for output in outputs.values())


def _sampled(answer: int, **settings: Any) -> GenerationConfig:
    return GenerationConfig(
        do_sample=True, top_k=0, max_new_tokens=answer, pad_token_id=0, **settings
    )


def _timed(
    writes: Callable[..., int], model: PreTrainedModel, work: Work, slots: int
) -> Callable[[], float]:
    """Seconds by the clock that all answers take."""
    asked, clock = _prompts(model, work, slots), _clock(model.device)

    def seconds() -> float:
        began = clock()
        written = writes(model, asked, answer=work.answer)
        took = clock() - began
        if written != slots * work.answer:
            raise RuntimeError(f"{written} tokens written, not {slots} x {work.answer}")
        return took

    return seconds


def _prompts(model: PreTrainedModel, work: Work, slots: int) -> list[list[int]]:
    vocabulary = cast("Any", model.config).vocab_size
    return prompts(slots, shared=0, own=work.prompt, vocabulary=vocabulary)


def _clock(device: torch.device) -> Callable[[], float]:
    """Seconds by the clock, once the device has done all that it was told."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now
