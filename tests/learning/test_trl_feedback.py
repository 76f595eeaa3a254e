"""The yardstick of the feedback half: on the same rows our losses and gradients are TRL's."""

import os
from functools import partial

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from charter.learning.objectives import (
    dpo_loss,
    group_advantages,
    kl_k3,
    leave_one_out,
    policy_loss,
    preference_loss,
)
from charter.learning.tree import (
    Group,
    completion_logprobs,
    completion_rewards,
    summed_by_completion,
)
from tests.learning.test_trl_equality import tokenizer

PAIRS = (
    Group((5, 6, 7), ((8, 9, 1), (10, 11, 12, 13, 1))),
    Group((20, 21, 22, 23, 24), ((9, 1), (30, 31, 1))),
    Group((40,), ((41, 42, 43), (44, 1))),
)
"""Of a chosen and a rejected completion."""
CERTAIN = torch.ones(len(PAIRS))
SAMPLES = 4
ROLLOUTS = tuple(
    Group(
        tuple(range(3 + 10 * prompt, 7 + 12 * prompt)),
        tuple(
            (*(3 + (7 * at + 11 * number + prompt) % 60 for at in range(2 + number)), 1)
            for number in range(SAMPLES)
        ),
    )
    for prompt in range(2)
)
REWARDS_PG = torch.tensor([[0.1, 0.9, -0.4, 0.3], [1.0, 1.0, -2.0, 0.5]])
CLIP, KL_WEIGHT = 0.2, 0.3
TEXTS = {"prompt": "word5", "chosen": "word6", "rejected": "word7"}
"""What a trainer is made with that would tokenize for itself."""
LAYOUTS = ("rows", "tree", "shared")


@pytest.fixture
def trl():
    return pytest.importorskip("trl")


@pytest.fixture
def dataset():
    return pytest.importorskip("datasets").Dataset


@pytest.fixture
def settings(tmp_path):
    return {
        "output_dir": str(tmp_path),
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "dataloader_pin_memory": False,
    }


def reward_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_labels=1,
        pad_token_id=0,
    )
    model = LlamaForSequenceClassification(config)
    torch.nn.init.normal_(model.score.weight)  # rewards of a size that losses can be told apart by
    return model


def gradient(loss, model):
    model.zero_grad()
    loss.backward()
    return torch.cat([value.grad.flatten() for value in model.parameters()])


@pytest.mark.parametrize("margin", [0.0, 0.7])
@pytest.mark.parametrize("centre", [0.0, 0.05])
def test_reward_losses_equal_trls_where_labels_are_certain(trl, dataset, settings, centre, margin):
    rows = [
        {
            "chosen_ids": [*g.prompt, *g.completions[0]],
            "rejected_ids": [*g.prompt, *g.completions[1]],
        }
        for g in PAIRS
    ]
    if margin:
        rows = [row | {"margin": margin} for row in rows]
    model = reward_model()
    trainer = trl.RewardTrainer(
        model,
        args=trl.RewardConfig(center_rewards_coefficient=centre or None, **settings),
        train_dataset=dataset.from_list(rows),
        processing_class=tokenizer(),
    )
    theirs = trainer.compute_loss(model, trainer.data_collator(rows))
    expected = gradient(theirs, model)
    assert expected.abs().max() > 1e-3
    for layout in LAYOUTS:
        rewards = completion_rewards(model, PAIRS, layout=layout).view(-1, 2).unbind(dim=1)
        ours = preference_loss(*rewards, CERTAIN, margin=margin, centre=centre) / len(PAIRS)
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
        assert torch.allclose(gradient(ours, model), expected, atol=1e-5)


def test_dpo_losses_equal_trls_where_labels_are_certain(trl, dataset, settings, new_model):
    beta = 0.4
    rows = [
        {
            "prompt_ids": list(group.prompt),
            "chosen_ids": list(group.completions[0]),
            "rejected_ids": list(group.completions[1]),
        }
        for group in PAIRS
    ]
    model, reference = new_model(seed=0), new_model(seed=1).eval()
    trainer = trl.DPOTrainer(
        model,
        ref_model=reference,
        args=trl.DPOConfig(beta=beta, **settings),
        train_dataset=dataset.from_list([TEXTS]),
        processing_class=tokenizer(),
    )
    theirs = trainer.compute_loss(model, trainer.data_collator(rows))
    expected = gradient(theirs, model)
    # Not the trainer's models: TRL has put its own forward on them.
    model, reference = new_model(seed=0), new_model(seed=1)
    for layout in LAYOUTS:
        with torch.no_grad():
            kept = completion_logprobs(reference, PAIRS, layout=layout)
        ratios = summed_by_completion(
            completion_logprobs(model, PAIRS, layout=layout) - kept, PAIRS
        )
        ours = dpo_loss(*ratios.view(-1, 2).unbind(dim=1), CERTAIN, beta=beta) / len(PAIRS)
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
        assert torch.allclose(gradient(ours, model), expected, atol=1e-5)


def rollouts(prompts):
    """The same ids for the same prompts, however a trainer repeats them."""
    groups = [ROLLOUTS[int(prompt.removeprefix("prompt "))] for prompt in prompts]
    turns = [number % SAMPLES for number in range(len(prompts))]
    return (
        [list(group.prompt) for group in groups],
        [list(group.completions[turn]) for group, turn in zip(groups, turns, strict=True)],
    )


def reward_of(prompts, completion_ids, **_):
    numbers = [int(prompt.removeprefix("prompt ")) for prompt in prompts]
    return [
        REWARDS_PG[number, ROLLOUTS[number].completions.index(tuple(ids))].item()
        for number, ids in zip(numbers, completion_ids, strict=True)
    ]


def policy_trainer(trainer, config, model, settings, dataset, **options):
    rows = len(ROLLOUTS) * SAMPLES
    return trainer(
        model,
        reward_funcs=reward_of,
        args=config(
            per_device_train_batch_size=rows,
            num_generations=SAMPLES,
            beta=0.0,  # otherwise the reference is loaded from the hub, by the model's name
            max_steps=1,
            shuffle_dataset=False,
            learning_rate=0.0,
            **settings,
            **options,
        ),
        train_dataset=dataset.from_list([{"prompt": f"prompt {n}"} for n in range(len(ROLLOUTS))]),
        processing_class=tokenizer(),
    )


COMPLETIONS = [completion for group in ROLLOUTS for completion in group.completions]


def split(values):
    """The values of each completion's tokens."""
    return values.split([len(completion) for completion in COMPLETIONS])


def order_of(inputs):
    """Which of our completions TRL, which shuffles them, has in each row."""
    rows = zip(inputs["completion_ids"], inputs["completion_mask"].bool(), strict=True)
    return [COMPLETIONS.index(tuple(ids[mask].tolist())) for ids, mask in rows]


def stepped(trainer, model, sampled):
    """Loss, gradient and batch of one step of TRL's, whose rollouts had the `sampled` log-probs."""
    compute_loss, seen = trainer.compute_loss, []

    def noting(model, inputs, **options):
        old = torch.zeros(inputs["completion_ids"].shape)
        for row, number in zip(old, order_of(inputs), strict=True):
            row[: len(COMPLETIONS[number])] = split(sampled)[number]
        inputs["old_per_token_logps"] = old
        loss = compute_loss(model, inputs, **options)
        gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        seen.append((loss.item(), torch.cat([part.flatten() for part in gradients]), inputs))
        return loss

    trainer.compute_loss = noting
    trainer.train()
    (step,) = seen
    return step


@pytest.mark.parametrize(
    ("loss_type", "temperature"), [("dapo", 1.0), ("bnpo", 1.0), ("dapo", 1.4)]
)
def test_a_grpo_step_equals_trls_on_the_same_rollouts(
    trl, dataset, settings, new_model, loss_type, temperature
):
    logprobs_at = partial(completion_logprobs, temperature=temperature)
    sampler, reference, model = new_model(seed=0), new_model(seed=1), new_model(seed=0)
    with torch.no_grad():
        # The policy has moved from what sampled, in both directions and beyond the clip.
        torch.manual_seed(5)
        for value in sampler.parameters():
            value += 0.3 * torch.randn_like(value)
        sampled = logprobs_at(sampler, ROLLOUTS, layout="rows")
        kept = logprobs_at(reference, ROLLOUTS, layout="rows")
    options = {"loss_type": loss_type, "temperature": temperature}
    trainer = policy_trainer(
        trl.GRPOTrainer, trl.GRPOConfig, new_model(seed=0), settings, dataset, **options
    )
    trainer.rollout_func = lambda prompts, _: dict(
        zip(("prompt_ids", "completion_ids"), rollouts(prompts), strict=True), logprobs=None
    )
    # What its constructor does for a reference that it loads itself.
    trainer.beta, trainer.ref_model = KL_WEIGHT, reference
    trl.trainer.grpo_trainer.add_fused_lm_head(reference, temperature=temperature)
    theirs, expected, inputs = stepped(trainer, trainer.model, sampled)

    advantages = group_advantages(REWARDS_PG).flatten()
    assert torch.allclose(inputs["advantages"], advantages[order_of(inputs)], atol=1e-5)
    lengths = torch.tensor([len(completion) for completion in COMPLETIONS])
    for layout in LAYOUTS:
        logprobs = logprobs_at(model, ROLLOUTS, layout=layout)
        ratios = (logprobs - sampled).exp()
        assert ratios.min() < 1 - CLIP
        assert ratios.max() > 1 + CLIP
        loss = policy_loss(logprobs, sampled, advantages.repeat_interleave(lengths), clip=CLIP)
        kl = kl_k3(logprobs, kept, sampled_S=sampled).sum()
        loss = (loss + KL_WEIGHT * kl) / len(logprobs)
        assert loss.item() == pytest.approx(theirs, abs=1e-5)
        assert torch.allclose(gradient(loss, model), expected, atol=1e-5)


def test_leave_one_out_advantages_equal_trls(trl, dataset, settings, new_model):
    trainer = policy_trainer(
        trl.RLOOTrainer, trl.RLOOConfig, new_model(), settings, dataset, normalize_advantages=False
    )

    def generated(prompts):
        prompt_ids, completion_ids = rollouts(prompts)
        return prompt_ids, completion_ids, ["" for _ in prompts]

    trainer._generate = generated
    rows = [{"prompt": f"prompt {n}"} for n in range(len(ROLLOUTS)) for _ in range(SAMPLES)]
    scored = trainer._generate_and_score_completions(rows)
    assert torch.allclose(scored["advantages"], leave_one_out(REWARDS_PG).flatten(), atol=1e-5)
