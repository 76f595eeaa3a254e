"""RL on tasks whose answer is known."""

import json
import logging
from dataclasses import replace

import pytest
import torch

from charter.console import Silent
from charter.errors import GuardError, RunError
from charter.learning.metrics import LookRow, StepRow
from charter.records import Demonstration, Provenance, assistant
from tests.feedback.conftest import PROMPTS, short_spoken, tiny


class Killed(BaseException):
    """What stops a process from outside."""


class Dying(Silent):
    """Progress whose watcher pulls the plug when it has heard so many steps."""

    def __init__(self, after):
        self.left = after

    def advance(self, steps=1, *, note=None):
        if note is None:
            return
        self.left -= steps
        if self.left == 0:
            raise Killed


def says(word):
    """A reward of 1 for every response that says a word."""

    async def reward(rollouts):
        return [[float(word in text) for text in one.texts] for one in rollouts]

    return reward


async def length(rollouts):
    """A reward that pays for every token."""
    return [[float(len(answer.token_ids)) for answer in one.responses] for one in rollouts]


async def shorter_is_better(comparison):
    return 1.0 if len(comparison.first) < len(comparison.second) else 0.0


def saying(word):
    async def versus(comparison):
        return 0.5 + 0.5 * ((word in comparison.first) - (word in comparison.second))

    return versus


def demonstrations(text, *, kind="benign"):
    return [
        Demonstration(
            id=prompt.id,
            prompt=prompt.messages,
            completion=(assistant(text),),
            provenance=Provenance(
                prompt_id=prompt.id,
                kind=kind,
                round=0,
                principle_ids=(),
                seed=0,
                model="tiny",
                constitution="none",
            ),
        )
        for prompt in PROMPTS
    ]


def steps_of(trail):
    return [row for row in trail.rows if isinstance(row, StepRow)]


def looks_of(trail):
    return [row for row in trail.rows if isinstance(row, LookRow)]


def same_bits(one, other):
    return all(
        torch.equal(mine, theirs)
        for mine, theirs in zip(one.parameters(), other.parameters(), strict=True)
    )


def untimed(rows):
    return [row.model_copy(update={"seconds": 0.0}) if row.kind == "step" else row for row in rows]


def test_a_rule_as_reward_is_learnt(rl):
    _, trail = rl(says("yes"), steps=36, group=16, prompts_per_step=8, lr=1e-2)
    rows = steps_of(trail)
    assert rows[0].reward < 0.2
    assert rows[-1].reward >= 0.95
    assert all(row.sampler_gap_nats < 1e-4 for row in rows)


def test_what_speaks_at_a_temperature_learns_at_it_beside_a_reference_at_it(rl):
    entropies = []
    for temperature in (0.7, 1.0, 1.6):
        (first, *_) = steps_of(rl(reward=says("ab"), steps=2, temperature=temperature)[1])
        assert first.sampler_gap_nats < 1e-5
        assert abs(first.kl_nats) < 1e-6
        entropies.append(first.entropy_nats)
    assert entropies == sorted(entropies)


def test_what_was_loaded_in_half_precision_learns_in_full_and_speaks_in_half(rl):
    loaded = tiny()
    loaded = replace(loaded, model=loaded.model.to(torch.bfloat16))
    agent, trail = rl(says("yes"), loaded=loaded, steps=36, group=16, prompts_per_step=8, lr=1e-2)
    assert agent.model.dtype == torch.float32
    assert steps_of(trail)[-1].reward >= 0.95
    # It speaks by the weights of the step: apart from their rounding it says what they say.
    assert all(row.sampler_gap_nats < 0.05 for row in steps_of(trail))


def test_held_by_a_large_kl_weight_the_policy_does_not_move(rl):
    _, free = rl(says("yes"), name="free", steps=12, group=16)
    _, held = rl(says("yes"), name="held", steps=12, group=16, kl_weight=100.0)
    assert steps_of(free)[-1].kl_nats > 0.03
    assert steps_of(held)[-1].kl_nats < 0.005


def test_what_is_rehearsed_is_not_lost_for_the_reward(rl):
    taught = demonstrations("sorry")
    usual = {"steps": 24, "group": 16, "lr": 1e-2, "demonstrations": taught}
    _, free = rl(says("yes"), name="free", sft_weight=1e-6, **usual)
    _, held = rl(says("yes"), name="held", sft_weight=3.0, **usual)
    assert steps_of(held)[-1].rehearsed < 0.5 < steps_of(free)[-1].rehearsed
    assert steps_of(free)[-1].reward > 0.8 > steps_of(held)[-1].reward


def test_only_demonstrations_on_harmless_prompts_are_rehearsed(rl):
    with pytest.raises(GuardError, match="no demonstration on a benign"):
        rl(says("yes"), demonstrations=demonstrations("sorry", kind="harmful"), sft_weight=1.0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"passes": 2, "updates": 2},
        {"algorithm": "rloo"},
        {"demonstrations": demonstrations("no"), "sft_weight": 0.5},
    ],
)
def test_resumed_is_uninterrupted_bit_for_bit(rl, tmp_path, settings):
    whole, trail = rl(says("yes"), name="whole", steps=8, **settings)
    for after, every_s in ((2, 0.0), (3, 1e9), (1, 0.0)):
        with pytest.raises(Killed):
            rl(
                says("yes"),
                name="cut",
                steps=8,
                progress=Dying(after),
                checkpoint_every_s=every_s,
                **settings,
            )
    resumed, again = rl(says("yes"), name="cut", steps=8, **settings)
    assert same_bits(whole.model, resumed.model)
    assert untimed(again.rows) == untimed(trail.rows)
    rows = [json.loads(line) for line in (tmp_path / "cut" / "m.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [row.step for row in trail.rows]


def test_checkpoints_of_another_training_are_refused(rl, tmp_path):
    with pytest.raises(Killed):
        rl(says("yes"), progress=Dying(2))
    states = list((tmp_path / "run" / "ckpt").glob("step-*/state.json"))
    for state in states:
        state.write_text(state.read_text().replace('"tiny"', '"other"'))
        manifest = state.parent / "manifest.json"
        hashes = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({k: v for k, v in hashes.items() if k != "state.json"}))
    with pytest.raises(RunError, match="checkpoints of another training"):
        rl(says("yes"))


def test_a_reward_that_pays_for_length_is_caught_and_the_best_weights_restored(rl, caplog):
    with caplog.at_level(logging.WARNING):
        agent, trail = rl(
            length,
            versus=shorter_is_better,
            loaded=short_spoken(),
            steps=60,
            group=16,
            prompts_per_step=8,
            max_new_tokens=24,
            monitor_every=3,
        )
    assert trail.stopped is not None
    assert trail.stopped.too_far
    assert trail.stopped.reason.startswith(("goodhart", "length"))
    assert trail.steps < 60
    best = max(looks_of(trail), key=lambda row: (row.judge, row.step))
    assert trail.kept_step == best.step < trail.steps
    assert "RL stopped after step" in caplog.text
    if trail.kept_step == 0:
        assert same_bits(agent.model, short_spoken().model)


def test_an_honest_reward_does_not_stop(rl):
    _, trail = rl(
        says("please"),
        versus=saying("please"),
        loaded=short_spoken(),
        steps=24,
        group=16,
        prompts_per_step=8,
        monitor_every=3,
        kl_weight=0.01,
    )
    assert trail.stopped is None or not trail.stopped.too_far
    assert trail.kept_step == trail.steps
    assert looks_of(trail)[-1].judge > 0.6


def test_a_reward_that_tells_nothing_apart_stops_with_its_cause(rl):
    with pytest.raises(GuardError, match="nothing to learn"):
        rl(says("zzzz"), steps=20)


def test_training_that_has_nothing_left_to_learn_ends(rl):
    _, trail = rl(says("e"), loaded=short_spoken(), steps=80, group=4, prompts_per_step=4)
    assert trail.stopped is not None
    assert not trail.stopped.too_far
    assert trail.kept_step == trail.steps < 80


def test_the_kl_weight_follows_its_budget(rl):
    _, trail = rl(says("yes"), kl_weight=0.01, kl_budget=1e-6, steps=8)
    weights = [row.kl_weight for row in steps_of(trail)]
    assert weights[-1] > 0.01
    _, trail = rl(says("yes"), name="wide", kl_weight=0.01, kl_budget=1e6, steps=8)
    assert steps_of(trail)[-1].kl_weight < 0.01


def test_a_constraint_that_is_not_met_raises_its_multiplier_and_is_learnt(rl):
    limits = {"reward": "python:x:y", "level": 0.9, "lr": 1.0, "max_multiplier": 3.0}

    async def nothing_to_gain(rollouts):
        return [[0.0] * len(one.responses) for one in rollouts]

    _, trail = rl(
        nothing_to_gain,
        constraint=says("sorry"),
        loaded=short_spoken(),
        steps=16,
        group=16,
        **{"constraint_section": limits},
    )
    rows = steps_of(trail)
    assert 0.0 < rows[0].multiplier <= 3.0
    assert rows[-1].constraint > rows[0].constraint


def test_adapters_learn_and_the_reference_is_the_model_without_them(rl):
    loaded = tiny()
    frozen = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    agent, trail = rl(says("yes"), loaded=loaded, steps=10, group=16, lr=2e-2, lora={"rank": 4})
    assert steps_of(trail)[-1].kl_nats > 0.0
    assert steps_of(trail)[0].kl_nats == pytest.approx(0.0, abs=1e-6)
    kept = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value
        for name, value in agent.model.state_dict().items()
    }
    assert all(torch.equal(kept[name], value) for name, value in frozen.items())
