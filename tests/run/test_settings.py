from __future__ import annotations

from pathlib import Path

from charter.config import Config
from charter.run import settings
from charter.run.settings import differences


def config(**changes: object) -> Config:
    given = {
        "constitution": "rules.yaml",
        "prompts": {"train": "train.jsonl", "heldout": "heldout.jsonl"},
    }
    return Config.model_validate({**given, **changes})


def test_settings_are_flat_by_dotted_key():
    flat = settings(config(revise={"gates": {"max_words": 9}}))
    assert flat["seed"] == 0
    assert flat["revise.gates.max_words"] == 9
    assert flat["prompts.train.0.kind"] == "harmful"
    assert flat["learn"] == ["sft"]


def test_what_changes_no_result_is_no_setting_of_it():
    usual = settings(config())
    assert usual == settings(
        config(
            models={"policy": {"source": "starter", "capacity": 3}},
            revise={"max_failed": 0.9},
            evaluate={"max_failed": 0.9},
            finetune={"checkpoint_every_s": 1.0},
        )
    )
    assert not [key for key in usual if key.endswith(("capacity", "max_failed"))]


def test_an_input_counts_by_content_wherever_it_lies():
    moved = config(
        constitution="elsewhere.yaml",
        prompts={"train": Path("/b/train.jsonl"), "heldout": "/b/heldout.jsonl"},
    )
    assert settings(moved) == settings(config())


def test_a_section_can_be_taken_alone():
    flat = settings(config(), "seed", "revise")
    assert {key.split(".")[0] for key in flat} == {"seed", "revise"}


def test_differences_name_key_and_both_values():
    known = settings(config(finetune={"epochs": 3}))
    wanted = settings(config(finetune={"epochs": 5}, models={"critic": "other"}))
    assert "finetune.epochs: 3.0 -> 5.0" in differences(known, wanted)
    assert 'models.critic.source: null -> "other"' in differences(known, wanted)
    assert differences(known, known) == []
