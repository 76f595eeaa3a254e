"""What transformers does by itself: `generate` on batches that are padded on the left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from charter.models.loading import Loaded
from charter.records import Dialogue


class _Limits(StoppingCriteria):
    """Ends each row at its own length; `generate` knows only one for the batch."""

    def __init__(self, limits: Sequence[int], *, prompt_length: int) -> None:
        self._lengths = torch.tensor(limits) + prompt_length

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> torch.BoolTensor:  # noqa: ARG002
        return cast("torch.BoolTensor", self._lengths <= input_ids.shape[1])


@torch.inference_mode()
def write(
    loaded: Loaded, dialogues: Sequence[Dialogue], *, limits: Sequence[int], rows: int
) -> list[list[int]]:
    """Sampled ids after each dialogue, up to its limit or the terminator."""
    written: list[list[int]] = []
    for at in _batches(len(dialogues), rows):
        prompts = _padded(loaded, dialogues[at])
        length = prompts["input_ids"].shape[1]
        output = cast("Any", loaded.model).generate(
            **prompts,
            generation_config=_config(loaded, do_sample=True, max_new_tokens=max(limits[at])),
            stopping_criteria=StoppingCriteriaList([_Limits(limits[at], prompt_length=length)]),
        )
        written += (
            _up_to_terminator(row[:limit], loaded)
            for row, limit in zip(output[:, length:].tolist(), limits[at], strict=True)
        )
    return written


@torch.inference_mode()
def weigh(
    loaded: Loaded, dialogues: Sequence[Dialogue], *, choices: Sequence[str], rows: int
) -> list[dict[str, float]]:
    """Log-probabilities of choices of one token after each dialogue."""
    ids = [id_ for choice in choices for id_ in loaded.encoder.response_ids(choice)]
    weighed: list[dict[str, float]] = []
    for at in _batches(len(dialogues), rows):
        output = cast("Any", loaded.model).generate(
            **_padded(loaded, dialogues[at]),
            generation_config=_config(
                loaded,
                do_sample=False,
                max_new_tokens=1,
                output_scores=True,
                return_dict_in_generate=True,
            ),
        )
        logprobs = output.scores[0].log_softmax(-1)[:, ids]
        weighed += (dict(zip(choices, row, strict=True)) for row in logprobs.tolist())
    return weighed


def _batches(count: int, rows: int) -> Iterator[slice]:
    return (slice(start, start + rows) for start in range(0, count, rows))


def _padded(loaded: Loaded, dialogues: Sequence[Dialogue]) -> dict[str, Tensor]:
    prompts = [loaded.encoder.prompt_ids(dialogue) for dialogue in dialogues]
    length = max(map(len, prompts))
    missing = [length - len(prompt) for prompt in prompts]
    return {
        "input_ids": torch.tensor(
            [[0] * pad + ids for pad, ids in zip(missing, prompts, strict=True)]
        ),
        "attention_mask": (torch.arange(length) >= torch.tensor(missing)[:, None]).long(),
    }


def _config(loaded: Loaded, **settings: Any) -> GenerationConfig:
    end = loaded.encoder.terminator
    plain = {"top_k": 0} if settings["do_sample"] else {}
    return GenerationConfig(eos_token_id=end, pad_token_id=end, **plain, **settings)


def _up_to_terminator(row: list[int], loaded: Loaded) -> list[int]:
    """The row with its terminator, without the padding behind it."""
    end = loaded.encoder.terminator
    return row[: row.index(end) + 1] if end in row else row
