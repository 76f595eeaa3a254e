"""Demonstrations -> SFT model: a Hugging Face directory that loads anywhere.

The loss is on response tokens only, the terminator included. Validation, split by prompt, says
where training turns from learning to memorising; the model is the one of that point.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from charter.config import FinetuneConfig, LoraConfig
from charter.console import Progress
from charter.constitution import Constitution
from charter.encoding import Encoder, Example
from charter.errors import RunError
from charter.learning.card import CardFacts, model_card
from charter.learning.checkpoints import whole_directory
from charter.learning.curve import loss_curve
from charter.learning.memory import memory_for
from charter.learning.metrics import TrainRow, ValidationRow
from charter.learning.pretrained import made_trainable, save_trained
from charter.learning.recipe import Recipe, auto_lr
from charter.learning.tokens import token_task
from charter.learning.train import Keeping, Outcome, train
from charter.records import Demonstration, Record, content_hash, with_system_turn
from charter.run import write_atomically

_RESULT = "training.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pupil:
    """The model that fine-tuning starts from, loaded for this alone: it is changed in place."""

    source: str
    """What the user called it; for the model card."""
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    fingerprint: str
    """Of the weights as loaded; resuming a training of other weights is refused."""
    context: int | None
    """The most ids that it reads at once; None: no limit is known."""


@dataclass(frozen=True)
class Places:
    """Where fine-tuning writes."""

    out: Path
    """The model. That it is there means that it is complete."""
    checkpoints: Path
    """Removed when the model is there."""
    metrics: Path
    """JSONL; the picture of both losses lies beside it, as SVG."""


class FinetuneResult(Record):
    """What fine-tuning came to; losses are in nats per response token."""

    examples: int
    validation_examples: int
    too_long: tuple[str, ...]
    """Ids of demonstrations that were left out for their length."""
    parameters: int
    trained_parameters: int
    lr: float
    planned_steps: int
    steps: int
    """Steps taken; fewer than planned where validation loss turned up."""
    tokens: int
    """Read in all steps, prompts included."""
    best_step: int
    """The step whose weights were kept."""
    train_loss: float
    """Of the last step."""
    validation_before: float | None
    """None, as the next: nothing was held out."""
    validation_loss: float | None
    """At `best_step`."""


def finetune(
    demonstrations: Sequence[Demonstration],
    *,
    validation: Sequence[Demonstration],
    section: FinetuneConfig,
    pupil: Pupil,
    constitution: Constitution,
    seed: int,
    places: Places,
    progress: Progress,
) -> FinetuneResult:
    """Trains the pupil on demonstrations and saves it; a finished result is only read again.

    Args:
        demonstrations: What it learns to say.
        validation: Demonstrations of other prompts, to find the turning point on.
        section: How it is trained.
        pupil: What is trained.
        constitution: What the demonstrations were made under; for the model card.
        seed: Of the run.
        places: Where model, checkpoints and metrics go.
        progress: Hears each step.

    Raises:
        GuardError: Training would be useless or has gone wrong.
        RunError: The checkpoints belong to another training, two demonstrations share an id, or
            memory ran out.
    """
    if places.out.exists():
        return FinetuneResult.model_validate_json((places.out / _RESULT).read_bytes())
    examples = _encoded(demonstrations, section=section, pupil=pupil)
    held_out = _encoded(validation, section=section, pupil=pupil)
    dtype = pupil.model.dtype
    recipe = _recipe(section, parameters=pupil.model.num_parameters())
    with memory_for("the start of training"):
        model = made_trainable(
            pupil.model,
            lora=section.lora,
            seed=seed,
            gradient_checkpointing=section.gradient_checkpointing,
        )
        task = token_task(model, examples.kept, stage="finetune")
        validated = token_task(model, held_out.kept, stage="finetune") if held_out.kept else None
    outcome = train(
        model,
        task=task,
        validation=validated,
        recipe=recipe,
        seed=seed,
        identity=_identity(pupil, section.lora),
        keeping=Keeping(places.checkpoints, places.metrics, section.checkpoint_every_s),
        progress=progress,
    )
    result = _result(outcome, examples=examples, held_out=held_out, model=model, lr=recipe.lr)
    picture = loss_curve(outcome.rows, best=outcome.best, title=f"Fine-tuning {pupil.source}")
    write_atomically(places.metrics.with_suffix(".svg"), picture)
    with whole_directory(places.out) as partial:
        save_trained(
            model, tokenizer=pupil.tokenizer, encoder=pupil.encoder, directory=partial, dtype=dtype
        )
        _write_papers(partial, result, card=_facts(result, section, pupil, constitution))
    shutil.rmtree(places.checkpoints, ignore_errors=True)
    return result


def _write_papers(directory: Path, result: FinetuneResult, *, card: CardFacts) -> None:
    """Puts what the training came to beside its weights, for people and for a rerun."""
    (directory / "README.md").write_text(model_card(card), encoding="utf-8")
    (directory / _RESULT).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Encoded:
    kept: dict[str, Example]
    too_long: tuple[str, ...]


def _encoded(
    demonstrations: Sequence[Demonstration], *, section: FinetuneConfig, pupil: Pupil
) -> _Encoded:
    """The demonstrations as ids, by their names; those that are too long apart."""
    longest = _longest(section, pupil)
    kept: dict[str, Example] = {}
    too_long: list[str] = []
    seen: set[str] = set()
    for item in demonstrations:
        if item.id in seen:
            raise RunError(f"two demonstrations have the id {item.id}: ids must be unique")
        seen.add(item.id)
        (answer,) = item.completion
        prompt = with_system_turn(item.prompt, section.system)
        example = pupil.encoder.example(prompt, answer.content)
        if len(example.ids) > longest:
            too_long.append(item.id)
        else:
            kept[item.id] = example
    if too_long:
        _log.warning(
            "%d of %d demonstrations are longer than %d tokens and left out (%s)",
            len(too_long),
            len(demonstrations),
            longest,
            "`finetune.max_length`" if longest == section.max_length else "the model's context",
        )
    return _Encoded(kept, tuple(too_long))


def _longest(section: FinetuneConfig, pupil: Pupil) -> int:
    """The most ids of an example: behind its context a model has learnt no position."""
    return min(section.max_length, pupil.context or section.max_length)


def _recipe(section: FinetuneConfig, *, parameters: int) -> Recipe:
    lr = section.lr
    return Recipe(
        lr=auto_lr(parameters, lora=section.lora is not None) if lr == "auto" else lr,
        epochs=section.epochs,
        tokens_per_batch=section.tokens_per_batch,
        accumulate=section.accumulate,
        warmup_share=section.warmup_share,
        weight_decay=section.weight_decay,
        max_grad_norm=section.max_grad_norm,
        validate_every=section.validate_every,
        patience=section.patience,
        min_delta=section.min_delta,
    )


def _identity(pupil: Pupil, lora: LoraConfig | None) -> str:
    lora_section = lora.model_dump(mode="json") if lora else None
    return content_hash([pupil.fingerprint, pupil.encoder.fingerprint, lora_section])


def _result(
    outcome: Outcome,
    *,
    examples: _Encoded,
    held_out: _Encoded,
    model: PreTrainedModel,
    lr: float,
) -> FinetuneResult:
    last = [row for row in outcome.rows if isinstance(row, TrainRow)][-1]
    before = next((row for row in outcome.rows if isinstance(row, ValidationRow)), None)
    best = outcome.best
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return FinetuneResult(
        examples=len(examples.kept),
        validation_examples=len(held_out.kept),
        too_long=(*examples.too_long, *held_out.too_long),
        parameters=sum(count for count, _ in counts),
        trained_parameters=sum(count for count, trained in counts if trained),
        lr=lr,
        planned_steps=outcome.planned_steps,
        steps=outcome.steps,
        tokens=last.tokens,
        best_step=best.step if best else outcome.steps,
        train_loss=last.loss,
        validation_before=before.loss if before else None,
        validation_loss=best.loss if best else None,
    )


def _facts(
    result: FinetuneResult, section: FinetuneConfig, pupil: Pupil, constitution: Constitution
) -> CardFacts:
    lora = section.lora
    longest = _longest(section, pupil)
    return CardFacts(
        title=f"{pupil.source}, taught by the constitution {constitution.name}",
        base_model=pupil.source,
        method=(
            "Fine-tuned by charter on the base model's own responses, criticised and revised "
            "under a constitution (Bai et al. 2022, arXiv 2212.08073, supervised stage)."
        ),
        constitution=constitution,
        data={
            "Demonstrations": f"{result.examples:,}",
            "Validation demonstrations, of other prompts": f"{result.validation_examples:,}",
            f"Left out as longer than {longest:,} tokens": f"{len(result.too_long):,}",
        },
        training={
            "Weights changed": f"{result.trained_parameters:,} of {result.parameters:,}"
            + (f" (LoRA, rank {lora.rank}, alpha {lora.alpha:g})" if lora else ""),
            "Loss": "cross-entropy of the response tokens, terminator included",
            "Highest learning rate": f"{result.lr:.3g}, warm-up {section.warmup_share:.0%}, cosine",
            "Tokens per optimizer step": f"up to {section.tokens_per_batch:,} "
            f"x {section.accumulate}",
            "Optimizer": f"AdamW, weight decay {section.weight_decay:g}, gradient norm clipped at "
            f"{section.max_grad_norm:g}",
            "Steps": f"{result.steps:,} of {result.planned_steps:,} ({section.epochs:g} epochs)",
            "Tokens read": f"{result.tokens:,}",
        },
        results={
            "Training loss, last step": _nats(result.train_loss),
            "Validation loss before": _nats(result.validation_before),
            "Validation loss of this model": _nats(result.validation_loss),
            "Turning point": f"step {result.best_step:,}",
        },
    )


def _nats(loss: float | None) -> str:
    return "not measured" if loss is None else f"{loss:.4f} nats per token"
