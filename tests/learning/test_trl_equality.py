"""The yardstick: on the same rows, in the same order, our losses are TRL's, step after step."""

import os
from dataclasses import replace

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from charter.console import Silent
from charter.learning.course import plan_course
from charter.learning.tokens import token_task
from charter.learning.train import Keeping, train

ROWS_A_BATCH = 4
STEPS = 8


def our_losses(model, course, tmp_path):
    outcome = train(
        model,
        task=course.task,
        validation=None,
        recipe=course.recipe,
        seed=course.seed,
        identity="tiny",
        keeping=Keeping(tmp_path / "ckpt", tmp_path / "m.jsonl", 1e9),
        progress=Silent(),
    )
    return [row.loss for row in outcome.rows]


def trl_losses(model, course, examples, tmp_path):
    """TRL's losses on our batches, with our learning rates; the rest is as it comes."""
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    batches = [batch for (batch,) in course.steps_after(0)]
    assert all(len(batch) == ROWS_A_BATCH for batch in batches)
    rows = [examples[name] for batch in batches for name in batch]
    data = datasets.Dataset.from_list(
        [
            {
                "input_ids": list(row.ids),
                "completion_mask": [int(at >= row.prompt_length) for at in range(len(row.ids))],
            }
            for row in rows
        ]
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda at: course.lr_of(at + 1))
    settings = trl.SFTConfig(
        output_dir=str(tmp_path / "trl"),
        per_device_train_batch_size=ROWS_A_BATCH,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        completion_only_loss=True,
        max_grad_norm=course.recipe.max_grad_norm,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = trl.SFTTrainer(
        model,
        args=settings,
        train_dataset=data,
        processing_class=tokenizer(),
        optimizers=(optimizer, schedule),
    )
    losses = []
    compute_loss = trainer.compute_loss

    def noting(*args, **kwargs):
        result = compute_loss(*args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        losses.append(loss.item())
        return result

    trainer.compute_loss = noting
    trainer.train()
    return losses


def tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"word{number}": number for number in range(64)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="word0")),
        pad_token="word0",
        eos_token="word1",
    )


def test_sft_losses_equal_trls_step_after_step(new_model, new_examples, recipe, tmp_path):
    # Rows of 17 to 24 tokens: within one length step or two, so that each batch holds four.
    rows = {name: row for name, row in new_examples(200).items() if len(row.ids) > 16}
    rows = dict(list(rows.items())[: ROWS_A_BATCH * STEPS])
    exact = replace(recipe, tokens_per_batch=24 * ROWS_A_BATCH, epochs=1.0, lr=1e-2)
    model = new_model()
    task = token_task(model, rows, stage="finetune")
    course = plan_course(task, validation=None, recipe=exact, seed=3, model="tiny")
    ours = our_losses(model, course, tmp_path)
    theirs = trl_losses(new_model(), course, rows, tmp_path)
    assert len(ours) == len(theirs) == STEPS
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert ours[-1] < ours[0] - 0.05
