import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from charter.config import DpoConfig, LoraConfig
from charter.feedback.dpo import dpo
from charter.learning.grids import Group
from charter.learning.measured import kept_logprobs, logprobs_of
from tests.feedback.learners import (
    InterruptedAfter,
    new_pupil,
    preference,
    taught_into,
)

SECTION = DpoConfig(
    epochs=6, tokens_per_batch=512, lr=1e-2, patience=50, checkpoint_every_s=0.0, validate_every=8
)
BRIEF = SECTION.model_copy(update={"epochs": 1, "tokens_per_batch": 128})
FEW = {
    "preferences": [preference(number) for number in range(24)],
    "validation": [preference(number) for number in range(1000, 1006)],
}


def test_the_policy_comes_to_prefer_what_wins(tmp_path):
    result = taught_into(tmp_path, dpo, section=SECTION)
    assert result.ordering.accuracy.rate >= 0.95
    assert result.validation_before == pytest.approx(math.log(2), abs=1e-5)
    assert result.validation_loss < 0.5
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").can_generate()
    assert "DPO against soft labels, beta 0.1" in (tmp_path / "model" / "README.md").read_text()


def test_adapters_begin_at_the_reference_too(tmp_path):
    section = BRIEF.model_copy(update={"lora": LoraConfig(rank=2)})
    result = taught_into(tmp_path, dpo, section=section, **FEW)
    assert result.validation_before == pytest.approx(math.log(2), abs=1e-5)
    assert (tmp_path / "model" / "adapter").is_dir()


@pytest.mark.parametrize("steps", [1, 3])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, steps):
    whole = taught_into(tmp_path / "whole", dpo, section=BRIEF, **FEW)
    with pytest.raises(KeyboardInterrupt):
        taught_into(
            tmp_path / "cut", dpo, section=BRIEF, **(FEW | {"progress": InterruptedAfter(steps)})
        )
    assert taught_into(tmp_path / "cut", dpo, section=BRIEF, **FEW) == whole
    one, other = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", "cut"))
    assert one.read_bytes() == other.read_bytes()


def test_undecided_labels_hold_the_policy_where_it_is(tmp_path):
    pairs = [preference(number, p_chosen=0.5 + 0.001) for number in range(24)]
    result = taught_into(tmp_path, dpo, section=BRIEF, **(FEW | {"preferences": pairs}))
    assert result.train_loss == pytest.approx(math.log(2), abs=0.02)


GROUPS = {
    "a": Group((1, 4, 9), ((10, 11, 2), (12, 2))),
    "b": Group((1, 4), ((9, 2), (10, 2), (11, 12, 2))),
}


def test_the_reference_is_computed_once_and_then_read(tmp_path):
    pupil = new_pupil()
    ask = {"layout": "rows", "tokens_per_batch": 64, "at": tmp_path / "r.safetensors"}
    first = kept_logprobs(pupil.model, GROUPS, identity="tiny", **ask)
    with torch.no_grad():
        for value in pupil.model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    assert kept_logprobs(pupil.model, GROUPS, identity="tiny", **ask) == first
    assert kept_logprobs(pupil.model, GROUPS, identity="other", **ask) != first


def test_a_damaged_reference_is_computed_again(tmp_path):
    pupil, at = new_pupil(), tmp_path / "r.safetensors"
    ask = {"layout": "rows", "tokens_per_batch": 64, "at": at, "identity": "tiny"}
    first = kept_logprobs(pupil.model, GROUPS, **ask)
    at.write_bytes(at.read_bytes()[:-3])
    assert kept_logprobs(pupil.model, GROUPS, **ask) == first


def test_log_probabilities_are_those_of_whole_completions():
    model = new_pupil().model.eval()
    found = logprobs_of(model, GROUPS, layout="rows", tokens_per_batch=8)
    for name, group in GROUPS.items():
        for value, completion in zip(found[name], group.completions, strict=True):
            ids = torch.tensor([group.prompt + completion])
            with torch.no_grad():
                logprobs = model(ids).logits.log_softmax(-1)[0, len(group.prompt) - 1 : -1]
            expected = logprobs.gather(1, torch.tensor(completion)[:, None]).sum().item()
            assert value == pytest.approx(expected, abs=1e-4)
