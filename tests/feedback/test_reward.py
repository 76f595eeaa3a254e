import logging
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from charter.config import LoraConfig, RewardConfig
from charter.errors import GuardError, OverlongError, RunError
from charter.feedback.ordering import ordering
from charter.feedback.pairs import encoded_pairs
from charter.feedback.reward import read_ordering, require_accuracy, reward
from charter.feedback.scoring import RewardScorer, load_scorer
from charter.learning.grids import Group
from charter.learning.pairs import Pair, reward_task, together
from charter.learning.scalar import scalar_model
from charter.learning.tree import fitting_layout
from charter.records import Completion, user
from tests.feedback.learners import (
    WINNER,
    InterruptedAfter,
    new_pupil,
    preference,
    taught_into,
)

SECTION = RewardConfig(
    epochs=6, tokens_per_batch=512, lr=1e-2, patience=50, checkpoint_every_s=0.0, validate_every=8
)
BRIEF = SECTION.model_copy(update={"epochs": 1, "tokens_per_batch": 128})
FEW = {
    "preferences": [preference(number) for number in range(24)],
    "validation": [preference(number) for number in range(1000, 1006)],
}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """What training on preferences for one word came to, and where it lies."""
    directory = tmp_path_factory.mktemp("reward")
    return taught_into(directory, reward, section=SECTION), directory


def test_it_learns_what_wins_and_keeps_it_in_a_directory_that_loads_anywhere(learnt):
    result, directory = learnt
    assert result.ordering.accuracy.rate >= 0.95
    assert result.ordering.accuracy.n == result.validation_examples == 60
    out = directory / "model"
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    }
    assert AutoModelForSequenceClassification.from_pretrained(out).config.num_labels == 1
    card = (out / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert f"{result.ordering.accuracy.rate:.1%} of 60 held-out pairs" in card
    assert "nats a comparison" in (directory / "metrics" / "training.svg").read_text()
    assert not (directory / "checkpoints").exists()


def test_the_saved_model_scores_as_a_scorer_and_as_plain_transformers(learnt):
    directory = learnt[1]
    scorer = load_scorer(directory / "model")
    dialogue, said = (user("may i have my order"),), [f"{WINNER} my order", "no please yes"]
    rewards = scorer.rewards(dialogue, said)
    assert rewards[0] > rewards[1] + 1.0
    model = AutoModelForSequenceClassification.from_pretrained(directory / "model").eval()
    for response, expected in zip(said, rewards, strict=True):
        ids = scorer.encoder.example(dialogue, response).ids
        plain = model(input_ids=torch.tensor([ids])).logits.item()
        assert plain == pytest.approx(expected, abs=1e-5)


def test_in_half_precision_a_scorer_says_nearly_the_same(learnt):
    dialogue, said = (user("may i have my order"),), [f"{WINNER} my order", "no please yes"]
    half = load_scorer(learnt[1] / "model", dtype=torch.bfloat16).rewards(dialogue, said)
    whole = load_scorer(learnt[1] / "model").rewards(dialogue, said)
    assert half != whole
    assert half == pytest.approx(whole, rel=2e-2, abs=2e-2)


def test_lora_leaves_an_adapter_and_whole_weights_that_score_the_same(tmp_path):
    section = SECTION.model_copy(update={"lora": LoraConfig(rank=4)})
    result = taught_into(tmp_path, reward, section=section, seed=0)
    assert result.ordering.accuracy.rate >= 0.95
    assert 0 < result.trained_parameters < result.parameters
    names = {path.name for path in (tmp_path / "model" / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    one, other = load_scorer(tmp_path / "model").rewards((user("yes"),), [WINNER, "no"])
    assert one > other + 1.0


@pytest.mark.parametrize("steps", [1, 3])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, steps):
    whole = taught_into(tmp_path / "whole", reward, section=BRIEF, **FEW)
    with pytest.raises(KeyboardInterrupt):
        taught_into(
            tmp_path / "cut",
            reward,
            section=BRIEF,
            **(FEW | {"progress": InterruptedAfter(steps)}),
        )
    assert taught_into(tmp_path / "cut", reward, section=BRIEF, **FEW) == whole
    one, other = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", "cut"))
    assert one.read_bytes() == other.read_bytes()


def test_a_finished_model_is_read_and_not_made_again(tmp_path):
    result = taught_into(tmp_path, reward, section=BRIEF, **FEW)
    before = load_file(tmp_path / "model" / "model.safetensors")
    assert taught_into(tmp_path, reward, section=BRIEF, preferences=[], validation=[]) == result
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_margin_is_another_training(tmp_path):
    interrupted = FEW | {"progress": InterruptedAfter(1)}
    with pytest.raises(KeyboardInterrupt):
        taught_into(tmp_path, reward, section=BRIEF, **interrupted)
    other = BRIEF.model_copy(update={"margin": 1.0})
    with pytest.raises(RunError, match="another training"):
        taught_into(tmp_path, reward, section=other, **FEW)


def test_what_is_too_long_is_left_out_and_named(tmp_path, caplog):
    long = preference(99, rejected=({"role": "assistant", "content": " ".join(["no"] * 60)},))
    pairs = [*FEW["preferences"], long]
    section = BRIEF.model_copy(update={"max_length": 40})
    with caplog.at_level(logging.WARNING):
        result = taught_into(tmp_path, reward, section=section, **(FEW | {"preferences": pairs}))
    assert (result.too_long, result.examples) == (("pair-99",), 24)
    assert "1 of 25 preferences are longer than 40 tokens" in caplog.text
    assert "`reward.max_length`" in caplog.text


def test_labels_that_say_nothing_stop(tmp_path):
    undecided = [preference(number, p_chosen=0.5) for number in range(4)]
    with pytest.raises(GuardError, match="nothing to learn: of 4 comparisons"):
        taught_into(tmp_path, reward, section=BRIEF, preferences=undecided, validation=[])


ids = st.lists(st.integers(7, 18), min_size=1, max_size=5).map(tuple)


@settings(max_examples=25, deadline=None)
@given(prompt=ids, first=ids, second=ids, p=st.floats(0.0, 1.0), margin=st.floats(0.0, 2.0))
def test_swapping_the_responses_with_the_label_leaves_the_loss(prompt, first, second, p, margin):
    model = scalar_model(new_pupil().model, pad_id=0, seed=0).eval()

    def loss(pair):
        compared = together({"pair": pair}, layout="rows", tokens_per_batch=64)
        task = reward_task(compared, layout="rows", margin=margin, centre=0.1, stage="reward")
        return task.loss(model, ["pair"]).item()

    as_is = loss(Pair(Group(prompt, (first, second)), p))
    swapped = loss(Pair(Group(prompt, (second, first)), 1.0 - p))
    assert as_is == pytest.approx(swapped, abs=1e-5)


def test_the_gate_refuses_with_figure_interval_and_remedies(tmp_path):
    weak = taught_into(tmp_path, reward, section=BRIEF.model_copy(update={"lr": 1e-9}), **FEW)
    section = RewardConfig(min_accuracy=1.0)
    half = weak.ordering.accuracy.model_copy(update={"rate": 0.5, "low": 0.2, "high": 0.8})
    poor = weak.ordering.model_copy(update={"judged": half})
    with pytest.raises(GuardError) as refused:
        require_accuracy(poor, section=section, run=Path("runs/old"))
    for part in (
        "50.0% of 6 held-out pairs",
        "20.0% to 80.0%",
        "compare.responses",
        "reward.epochs",
        "models.judge",
        "reinforce.reward=judge",
        "learn=[sft]",
        "reward.min_accuracy",
        "`charter report runs/old`",
        "--run NEW --reuse runs/old",
    ):
        assert part in str(refused.value)
    assert refused.value.exit_code == 6
    require_accuracy(poor, section=RewardConfig(min_accuracy=0.5), run=tmp_path)


def test_what_was_scored_before_changes_no_bit_of_a_reward():
    pupil, rng = new_pupil(), random.Random(0)
    model = scalar_model(pupil.model, pad_id=0, seed=0).eval()

    def ids(count):
        return tuple(rng.choices(range(8, 18), k=count))

    # Each kind of group has a cheapest layout of its own.
    lone = [Group(ids(20), (ids(9),)) for _ in range(3)]
    uneven = [Group(ids(20), (ids(30), ids(2), ids(2), ids(2))) for _ in range(3)]
    assert fitting_layout(model, probe=lone) != fitting_layout(model, probe=uneven)
    practised, fresh = (RewardScorer(model, encoder=pupil.encoder) for _ in range(2))
    practised.rewards_of_groups(lone)
    assert practised.rewards_of_groups(uneven) == fresh.rewards_of_groups(uneven)


def test_the_gate_says_how_to_hold_out_some_where_nothing_was():
    with pytest.raises(GuardError, match="no held-out pairs to judge the reward model") as refused:
        require_accuracy(ordering(()), section=RewardConfig(), run=Path("runs/old"))
    for part in (
        "reward.min_accuracy = 65%",
        "--run NEW --reuse runs/old",
        "reward.validation_share",
        "compare.responses",
        "reward.min_accuracy=0",
    ):
        assert part in str(refused.value)
    assert "orders" not in str(refused.value)


def test_the_gate_stands_open_where_nothing_was_held_out_and_nothing_is_asked():
    require_accuracy(ordering(()), section=RewardConfig(min_accuracy=0.0), run=Path("runs/old"))


@pytest.mark.parametrize("cut_off", [(False, False), (True, False), (False, True), (True, True)])
def test_a_scorer_reads_a_response_as_training_reads_it(cut_off):
    pupil, asked = new_pupil(), preference(1)
    provenance = asked.provenance.model_copy(update={"cut_off": cut_off})
    pair = asked.model_copy(update={"provenance": provenance})
    encoded = encoded_pairs([pair], section=SECTION, pupil=pupil, stage="reward").kept[pair.id]
    ends = [ids[-1] == pupil.encoder.terminator for ids in encoded.group.completions]
    assert ends == [not is_cut for is_cut in cut_off]

    scorer = RewardScorer(scalar_model(pupil.model, pad_id=0, seed=0).eval(), encoder=pupil.encoder)
    said = [
        Completion(text=f" {turn.content}\n", finish="length" if is_cut else "stop")
        for (turn,), is_cut in zip((pair.chosen, pair.rejected), cut_off, strict=True)
    ]
    read = scorer.rewards_of_all([(pair.prompt, said)])
    assert read == scorer.rewards_of_groups([encoded.group])
    whole = scorer.rewards(pair.prompt, [turn.content for (turn,) in (pair.chosen, pair.rejected)])
    assert [one != other for one, other in zip(read[0], whole, strict=True)] == [*cut_off]


@pytest.mark.parametrize("over", [1, 4])
def test_a_response_that_runs_over_the_context_is_read_as_far_as_that_goes(over):
    pupil, dialogue, text = new_pupil(), (user("may i"),), "no please yes thanks my order"
    whole = pupil.encoder.example(dialogue, text)
    model = scalar_model(pupil.model, pad_id=0, seed=0).eval()
    model.config.max_position_embeddings = len(whole.ids) - over
    scorer = RewardScorer(model, encoder=pupil.encoder)
    said = [Completion(text=text, finish="stop")]
    assert not scorer.fits(dialogue, said)
    prompt, response = whole.ids[: whole.prompt_length], whole.ids[whole.prompt_length :]
    as_far = scorer.rewards_of_groups([Group(prompt, (response[:-over],))])
    assert scorer.rewards_of_all([(dialogue, said)]) == as_far


def test_a_dialogue_that_leaves_a_scorer_no_room_is_named_overlong():
    pupil, dialogue = new_pupil(), (user("may i have my order"),)
    model = scalar_model(pupil.model, pad_id=0, seed=0).eval()
    model.config.max_position_embeddings = len(pupil.encoder.prompt_ids(dialogue))
    with pytest.raises(OverlongError, match="no room for a response in the"):
        RewardScorer(model, encoder=pupil.encoder).rewards(dialogue, ["no"])


def test_a_missing_account_of_the_reward_model_names_the_command(tmp_path):
    with pytest.raises(RunError, match="Run `charter reward` first"):
        read_ordering(tmp_path / "reward.json")


def test_nothing_longer_than_the_models_context_is_read(tmp_path):
    pupil = replace(new_pupil(), context=18)
    result = taught_into(tmp_path, reward, section=BRIEF, pupil=pupil, **FEW)
    assert len(result.too_long) > 0
    assert result.examples + result.validation_examples + len(result.too_long) == 30
