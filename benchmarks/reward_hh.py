"""Reward models on people's preferences: ours against TRL's `RewardTrainer`, on the same split.

1,200 pairs of red-team dialogues (hh-rlhf, harmless-base), about 200 of them held out by prompt.
Both sides start from the starter model under the same new head, and read the same ids as often at
the same learning rate. The starter knows another world than these dialogues: little is to be
expected of it, and what counts is that both sides come to the same.

The data are not part of this project. Their folder is `CHARTER_DATA`, or `../shared/data`; where
the file is missing, nothing is measured.
"""

from __future__ import annotations

import copy
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from trl import RewardConfig as TrlConfig  # pyright: ignore[reportPrivateImportUsage]
from trl import RewardTrainer  # pyright: ignore[reportPrivateImportUsage]

from benchmarks.measuring import Figure, cpu_s
from charter.config import STARTER, ModelSource, RewardConfig
from charter.console import Silent
from charter.constitution import Constitution, Principle
from charter.feedback.ordering import Ordering, ordering
from charter.feedback.pairs import PairSplit, encoded_pairs, scored, split_pairs
from charter.feedback.preferences import each_once, human_row
from charter.feedback.reward import STAGE, reward
from charter.learning.lesson import Places
from charter.learning.measured import rewards_of
from charter.learning.pairs import Pair
from charter.learning.pupil import Pupil
from charter.learning.scalar import padding_id, scalar_model
from charter.models.loading import load
from charter.pipeline.teaching import pupil_of
from charter.prompts import AnswerPair, read_pairs

_FILE = "hh_rlhf_harmless_1200.jsonl"
_HELD_OUT = 200
_PAIRS_A_BATCH = 8
"""Of TRL's; ours hold as many tokens as that many comparisons do on average."""
_LR = 1e-4
"""TRL's default."""
_SEED = 0
_NOBODY = Constitution(name="none", principles=(Principle(id="none", rule="None."),))


def figures(*, quick: bool) -> Iterator[Figure]:
    """Held-out accuracy of both sides with its interval, and the ratio of what they cost."""
    path = Path(os.environ.get("CHARTER_DATA", "../shared/data")) / _FILE
    if not path.is_file():
        print(f"{path} is not there: nothing is measured", file=sys.stderr)
        return
    parts = _split(path, limit=60 if quick else None)
    section = _section(parts, epochs=1.0)
    ours, our_s = _ours(parts, section=section)
    theirs, their_s = _trls(parts, section=section)
    against = (
        f"TRL's RewardTrainer, tuned (bf16=False, gradient_checkpointing=False): one epoch of "
        f"{len(parts.train)} pairs at {_LR:g}"
    )
    yield _accuracy("reward_hh.accuracy", ours, against=against)
    yield _accuracy("reward_hh.trl_accuracy", theirs, against="the same, as TRL trains it")
    ratio = their_s / our_s
    yield Figure("reward_hh.speedup", ratio, "x", ratio, ratio, goal=1.8, against=against)


def _accuracy(figure: str, found: Ordering, *, against: str) -> Figure:
    rate, low, high = found.accuracy.rate, found.accuracy.low, found.accuracy.high
    assert rate is not None
    assert low is not None
    assert high is not None
    unit = f"share of {found.accuracy.n} held-out pairs, 95 % interval"
    return Figure(figure, rate, unit, low, high, goal=None, against=against)


def _split(path: Path, *, limit: int | None) -> PairSplit:
    rows = each_once(
        human_row(pair, p_chosen=1.0, seed=_SEED, system=None)
        for pair in read_pairs(path)
        if isinstance(pair, AnswerPair)
    )[:limit]
    share = _HELD_OUT / max(len(rows), 2 * _HELD_OUT)
    section = RewardConfig(validation_share=share)
    return split_pairs(rows, section=section, stage=STAGE, heldout=(), seed=_SEED)


def _section(parts: PairSplit, *, epochs: float) -> RewardConfig:
    pupil = pupil_of(load(ModelSource(source=STARTER)))
    section = RewardConfig(
        lr=_LR, epochs=epochs, centre=0.0, validate_every=10**6, checkpoint_every_s=1e9
    )
    kept = encoded_pairs(parts.train, section=section, pupil=pupil, stage=STAGE).kept.values()
    tokens = sum(pair.group.tokens_in("tree") for pair in kept)
    return section.model_copy(update={"tokens_per_batch": _PAIRS_A_BATCH * tokens // len(kept)})


def _ours(parts: PairSplit, *, section: RewardConfig) -> tuple[Ordering, float]:
    # accelerate keeps TRL's precision for the whole process, and would refuse ours.
    AcceleratorState._reset_state(reset_partial_state=True)
    pupil = pupil_of(load(ModelSource(source=STARTER)))
    found: list[Ordering] = []
    with tempfile.TemporaryDirectory() as folder:
        places = Places(
            out=Path(folder) / "model",
            checkpoints=Path(folder) / "checkpoints",
            metrics=Path(folder) / "reward.jsonl",
        )

        def train() -> None:
            result = reward(
                parts.train,
                validation=parts.validation,
                section=section,
                pupil=pupil,
                constitution=_NOBODY,
                seed=_SEED,
                places=places,
                progress=Silent(),
            )
            found.append(result.ordering)

        cost_s = cpu_s(train)
    return found[0], cost_s


def _trls(parts: PairSplit, *, section: RewardConfig) -> tuple[Ordering, float]:
    """The same, validations included: one before training and one after."""
    pupil = pupil_of(load(ModelSource(source=STARTER)))
    pad_id = padding_id(pupil.tokenizer, pupil.encoder)
    pupil = replace(pupil, model=scalar_model(pupil.model, pad_id=pad_id, seed=_SEED))
    train = encoded_pairs(parts.train, section=section, pupil=pupil, stage=STAGE).kept
    held_out = encoded_pairs(parts.validation, section=section, pupil=pupil, stage=STAGE).kept
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(pupil, train, held_out, section=section, folder=folder)

        def work() -> None:
            trainer.evaluate()
            trainer.train()
            trainer.evaluate()

        cost_s = cpu_s(work)
    model = pupil.model.eval()
    groups = {name: pair.group for name, pair in held_out.items()}
    with torch.no_grad():
        rewards = rewards_of(
            model, groups, layout="rows", tokens_per_batch=section.tokens_per_batch
        )
    return ordering(scored(parts.validation, held_out, rewards)), cost_s


def _trainer(
    pupil: Pupil,
    train: Mapping[str, Pair],
    held_out: Mapping[str, Pair],
    *,
    section: RewardConfig,
    folder: str,
) -> RewardTrainer:
    tokenizer: Any = copy.deepcopy(pupil.tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pupil.model.config.pad_token_id)
    return RewardTrainer(
        pupil.model,
        args=TrlConfig(
            output_dir=folder,
            per_device_train_batch_size=_PAIRS_A_BATCH,
            per_device_eval_batch_size=_PAIRS_A_BATCH,
            num_train_epochs=section.epochs,
            learning_rate=_LR,
            max_length=None,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=_SEED,
        ),
        train_dataset=_as_trl(train),
        eval_dataset=_as_trl(held_out),
        processing_class=tokenizer,
    )


def _as_trl(pairs: Mapping[str, Pair]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "chosen_ids": [*pair.group.prompt, *pair.group.completions[0]],
                "rejected_ids": [*pair.group.prompt, *pair.group.completions[1]],
            }
            for pair in pairs.values()
        ]
    )
