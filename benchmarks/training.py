"""One epoch of supervised fine-tuning: our loop against TRL's `SFTTrainer`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from accelerate.state import AcceleratorState
from datasets import Dataset
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

from benchmarks import tiny
from benchmarks.measuring import Figure, cpu_s, speedup
from charter.console import Silent
from charter.encoding import Example
from charter.learning.recipe import Recipe
from charter.learning.tokens import token_task
from charter.learning.train import Keeping, train

_LR = 1e-3
_LONGEST = 512
"""Tokens of a prompt, and of a response."""
_ROWS_A_BATCH = 16
"""Of TRL's; ours hold as many tokens as that many rows do on average."""

_TUNED = {"bf16": False, "gradient_checkpointing": False}
_BY_LENGTH = _TUNED | {"train_sampling_strategy": "group_by_length"}
_DEFAULTS: dict[str, Any] = {}


def figures(*, quick: bool) -> Iterator[Figure]:
    """Ratios against a tuned SFTTrainer, one that also sorts by length, and its defaults."""
    rows, few, repeats = (4, 2, 1) if quick else (64, 32, 3)
    many = _examples(rows)
    tuned = "SFTTrainer with bf16=False, gradient_checkpointing=False"
    yield _figure("training.sft", many, settings=_TUNED, repeats=repeats, goal=1.5, against=tuned)
    by_length = f"{tuned}, group_by_length"
    yield _figure(
        "training.sft_by_length", many, settings=_BY_LENGTH, repeats=repeats, against=by_length
    )
    yield _figure(
        "training.sft_defaults",
        _examples(few),
        settings=_DEFAULTS,
        repeats=repeats,
        against="SFTTrainer at its defaults (bfloat16, gradient checkpointing)",
    )


def _figure(
    figure: str,
    examples: Mapping[str, Example],
    *,
    settings: Mapping[str, Any],
    repeats: int,
    against: str,
    goal: float | None = None,
) -> Figure:
    return speedup(
        figure,
        ours=lambda: _our_cpu_s(examples),
        theirs=lambda: _trl_cpu_s(examples, settings),
        repeats=repeats,
        goal=goal,
        against=against,
    )


def _examples(rows: int) -> dict[str, Example]:
    """Random ids, as long as prompts and responses of hh-rlhf are."""
    rng = Random(0)
    examples: dict[str, Example] = {}
    for number in range(rows):
        prompt = tiny.length(110, spread=0.7, longest=_LONGEST, rng=rng)
        response = tiny.length(70, spread=0.6, longest=_LONGEST, rng=rng)
        ids = (rng.randrange(tiny.VOCABULARY) for _ in range(prompt + response))
        examples[f"row-{number}"] = Example(ids=tuple(ids), prompt_length=prompt)
    return examples


def _our_cpu_s(examples: Mapping[str, Example]) -> float:
    """What an epoch costs us; the model is made before."""
    model = tiny.model()
    tokens = sum(len(example.ids) for example in examples.values())
    recipe = Recipe(
        lr=_LR,
        epochs=1.0,
        tokens_per_batch=_ROWS_A_BATCH * tokens // len(examples),
        accumulate=1,
        warmup_share=0.05,
        weight_decay=0.0,
        max_grad_norm=1.0,
        validate_every=None,
        patience=1,
        min_delta=0.0,
    )
    # accelerate keeps TRL's precision for the whole process, and would refuse ours.
    AcceleratorState._reset_state(reset_partial_state=True)
    task = token_task(model, examples, stage="finetune")
    with tempfile.TemporaryDirectory() as folder:
        keeping = Keeping(Path(folder) / "checkpoints", Path(folder) / "metrics.jsonl", 1e9)
        return cpu_s(
            lambda: train(
                model,
                task=task,
                validation=None,
                recipe=recipe,
                seed=0,
                identity="tiny",
                keeping=keeping,
                progress=Silent(),
            )
        )


def _trl_cpu_s(examples: Mapping[str, Example], settings: Mapping[str, Any]) -> float:
    """What an epoch costs TRL; model, trainer and prepared rows are made before."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            tiny.model(),
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=_ROWS_A_BATCH,
                num_train_epochs=1,
                learning_rate=_LR,
                completion_only_loss=True,
                max_length=2 * _LONGEST,
                use_cpu=True,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
                **settings,
            ),
            train_dataset=_as_trl(examples),
            processing_class=tiny.tokenizer(),
        )
        return cpu_s(trainer.train)


def _as_trl(examples: Mapping[str, Example]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "input_ids": list(example.ids),
                "completion_mask": [
                    int(at >= example.prompt_length) for at in range(len(example.ids))
                ],
            }
            for example in examples.values()
        ]
    )
