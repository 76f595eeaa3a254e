import json
import logging

import pytest
import torch

from charter.errors import RunError
from charter.learning import checkpoints
from charter.learning.checkpoints import (
    Cadence,
    Checkpoint,
    TrainingState,
    discard_after,
    load_best,
    load_step,
    save_best,
    save_step,
    whole_directory,
)
from charter.learning.metrics import ValidationRow


def checkpoint(step, *, best_step=None):
    rows = (ValidationRow(step=step, loss=1.0 / step),)
    state = TrainingState(identity="job", step=step, rows=rows, best_step=best_step)
    weights = {"layer.weight": torch.full((2, 3), float(step))}
    return Checkpoint(state, weights=weights, moments={"0.step": torch.tensor(float(step))})


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path):
    saved = checkpoint(3)
    save_step(tmp_path, saved)
    loaded = load_step(tmp_path)
    assert loaded.state == saved.state
    assert torch.equal(loaded.weights["layer.weight"], saved.weights["layer.weight"])
    assert torch.equal(loaded.moments["0.step"], saved.moments["0.step"])


def test_nothing_saved_means_a_new_start(tmp_path):
    assert load_step(tmp_path / "none") is None


@pytest.mark.parametrize(
    "file", ["weights.safetensors", "moments.safetensors", "state.json", "manifest.json"]
)
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(tmp_path, caplog, file, damage):
    for step in (1, 2):
        save_step(tmp_path, checkpoint(step))
    path = tmp_path / "step-2" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    match damage:
        case "flipped":
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case _:
            path.unlink()
    with caplog.at_level(logging.WARNING):
        assert load_step(tmp_path).state.step == 1
    assert "step-2 is damaged" in caplog.text


def test_a_checkpoint_whose_best_weights_are_lost_is_not_used(tmp_path, caplog):
    save_step(tmp_path, checkpoint(1))
    save_best(tmp_path, 2, weights=checkpoint(2).weights)
    save_step(tmp_path, checkpoint(2, best_step=2))
    (tmp_path / "best-2" / "weights.safetensors").unlink()
    assert load_step(tmp_path).state.step == 1
    assert "has lost best-2" in caplog.text


def test_only_the_two_newest_steps_and_the_best_they_refer_to_are_kept(tmp_path):
    for step in range(1, 8):
        if step in (2, 3, 6):
            save_best(tmp_path, step, weights=checkpoint(step).weights)
        best = max((best for best in (2, 3, 6) if best <= step), default=None)
        save_step(tmp_path, checkpoint(step, best_step=best))
    assert names(tmp_path) == ["best-6", "step-6", "step-7"]


def test_the_best_of_the_older_step_is_kept_too(tmp_path):
    for step in (3, 5):
        save_best(tmp_path, step, weights=checkpoint(step).weights)
        save_step(tmp_path, checkpoint(step, best_step=step))
    assert names(tmp_path) == ["best-3", "best-5", "step-3", "step-5"]
    assert load_best(tmp_path, 3)["layer.weight"][0, 0] == 3.0


def test_what_is_to_be_made_again_is_discarded(tmp_path):
    for step in (4, 6):
        save_best(tmp_path, step, weights=checkpoint(step).weights)
        save_step(tmp_path, checkpoint(step, best_step=step))
    (tmp_path / ".partial-step-8").mkdir()
    discard_after(tmp_path, step=4)
    assert names(tmp_path) == ["best-4", "step-4"]


def test_a_directory_that_was_not_finished_is_not_there(tmp_path):
    def interrupted():
        with whole_directory(tmp_path / "out") as partial:
            (partial / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not (tmp_path / "out").exists()
    with whole_directory(tmp_path / "out") as partial:
        (partial / "whole").write_text("x")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["whole"]


def test_a_disk_that_refuses_is_the_runs_problem_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="Make room or mend permissions"):
        save_best(tmp_path / "file", 1, weights=checkpoint(1).weights)


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path):
    save_step(tmp_path, checkpoint(1))
    assert names(tmp_path / "step-1") == [
        "manifest.json",
        "moments.safetensors",
        "state.json",
        "weights.safetensors",
    ]
    assert json.loads((tmp_path / "step-1" / "state.json").read_text())["step"] == 1


class Clock:
    """A clock that somebody sets."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.mark.parametrize(
    ("every_s", "took_s", "saves"), [(10.0, 0.0, 9), (10.0, 2.0, 3), (0.0, 2.0, 99)]
)
def test_what_takes_long_to_save_is_saved_less_often(monkeypatch, every_s, took_s, saves):
    clock = Clock()
    monkeypatch.setattr(checkpoints, "time", clock)
    cadence, saved = Cadence(every_s), []

    def save():
        saved.append(clock.now)
        clock.now += took_s

    for _ in range(99):
        clock.now += 1.0
        cadence.save_if_due(save)
    assert len(saved) == saves
