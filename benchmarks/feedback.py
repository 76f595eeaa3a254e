"""One epoch of a reward model on preferences: our loop against TRL's `RewardTrainer`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

from accelerate.state import AcceleratorState
from datasets import Dataset
from transformers import PreTrainedModel
from trl import RewardConfig, RewardTrainer  # pyright: ignore[reportPrivateImportUsage]

from benchmarks import tiny
from benchmarks.measuring import Figure, cpu_s, speedup
from charter.console import Silent
from charter.learning.grids import Group
from charter.learning.pairs import Pair, layout_together, reward_task, together
from charter.learning.recipe import Recipe
from charter.learning.scalar import scalar_model
from charter.learning.train import Keeping, train

_LR = 1e-3
_LONGEST = 512
"""Tokens of a prompt, and of a response."""
_PAIRS_A_BATCH = 8
"""Of TRL's; ours hold as many tokens as that many pairs do on average."""

_TUNED = {"bf16": False, "gradient_checkpointing": False}
_DEFAULTS: dict[str, Any] = {}
_PAD: int = tiny.model().config.eos_token_id
"""What the tokenizer pads with; no response ends with it."""


def figures(*, quick: bool) -> Iterator[Figure]:
    """Ratios against a tuned RewardTrainer (it cannot sort pairs by length), and its defaults."""
    pairs, few, repeats = (4, 2, 1) if quick else (48, 24, 3)
    many = preferences(pairs)
    # All six comparisons of four responses, as `compare.responses: 4` leaves them.
    of_four = preferences(max(1, pairs // 6), responses=4)
    tuned = "RewardTrainer with bf16=False, gradient_checkpointing=False"
    yield _figure(
        "training.reward", many, settings=_TUNED, repeats=repeats, goal=1.8, against=tuned
    )
    yield _figure(
        "training.reward.of_four", of_four, settings=_TUNED, repeats=repeats, against=tuned
    )
    yield _figure(
        "training.reward.defaults",
        preferences(few),
        settings=_DEFAULTS,
        repeats=repeats,
        against="RewardTrainer at its defaults (bfloat16, gradient checkpointing)",
    )


def _figure(
    figure: str,
    pairs: Mapping[str, Pair],
    *,
    settings: Mapping[str, Any],
    repeats: int,
    against: str,
    goal: float | None = None,
) -> Figure:
    return speedup(
        figure,
        ours=lambda: _our_cpu_s(pairs),
        theirs=lambda: _trl_cpu_s(pairs, settings),
        repeats=repeats,
        goal=goal,
        against=against,
    )


def preferences(prompts: int, *, responses: int = 2) -> dict[str, Pair]:
    """Random ids, as long as prompts and responses of hh-rlhf are.

    All responses to a prompt are compared, and an earlier one is surely better.
    """
    rng = Random(0)

    def ids(mean: float, *, spread: float) -> tuple[int, ...]:
        count = tiny.length(mean, spread=spread, longest=_LONGEST, rng=rng)
        return tuple(rng.randrange(_PAD) for _ in range(count))

    def compared() -> Iterator[Pair]:
        prompt = ids(110, spread=0.7)
        completions = [ids(70, spread=0.6) for _ in range(responses)]
        for both in combinations(completions, 2):
            yield Pair(Group(prompt, both), 1.0)

    pairs = [pair for _ in range(prompts) for pair in compared()]
    return {f"pair-{number}": pair for number, pair in enumerate(pairs)}


def reward_model() -> PreTrainedModel:
    """The model that both sides train."""
    return scalar_model(tiny.model(), pad_id=_PAD, seed=0)


def _our_cpu_s(pairs: Mapping[str, Pair]) -> float:
    """What an epoch costs us; the model is made before."""
    model = reward_model()
    # accelerate keeps TRL's precision for the whole process, and would refuse ours.
    AcceleratorState._reset_state(reset_partial_state=True)
    budget = _PAIRS_A_BATCH * sum(pair.group.tokens for pair in pairs.values()) // len(pairs)
    layout = layout_together(model, pairs, tokens_per_batch=budget)
    compared = together(pairs, layout=layout, tokens_per_batch=budget)
    task = reward_task(compared, layout=layout, margin=0.0, centre=0.0, stage="reward")
    recipe = Recipe(
        lr=_LR,
        epochs=1.0,
        tokens_per_batch=budget,
        accumulate=1,
        warmup_share=0.05,
        weight_decay=0.0,
        max_grad_norm=1.0,
        validate_every=None,
        patience=1,
        min_delta=0.0,
    )
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


def _trl_cpu_s(pairs: Mapping[str, Pair], settings: Mapping[str, Any]) -> float:
    """What an epoch costs TRL; model, trainer and prepared rows are made before."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = RewardTrainer(
            reward_model(),
            args=RewardConfig(
                output_dir=folder,
                per_device_train_batch_size=_PAIRS_A_BATCH,
                num_train_epochs=1,
                learning_rate=_LR,
                max_length=2 * _LONGEST,
                use_cpu=True,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
                **settings,
            ),
            train_dataset=_as_trl(pairs),
            processing_class=tiny.tokenizer(),
        )
        return cpu_s(trainer.train)


def _as_trl(pairs: Mapping[str, Pair]) -> Dataset:
    groups = [pair.group for pair in pairs.values()]
    return Dataset.from_list(
        [
            {
                "chosen_ids": [*group.prompt, *group.completions[0]],
                "rejected_ids": [*group.prompt, *group.completions[1]],
            }
            for group in groups
        ]
    )
