import logging
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from charter.models.reproducible import power_of_two, smallest_stable_batch, use_threads
from tests.models.conftest import threads


class Sensitive:
    """Says other logits in batches of fewer than `threshold` rows."""

    device = torch.device("cpu")

    def __init__(self, threshold):
        self.threshold = threshold

    def get_input_embeddings(self):
        return SimpleNamespace(num_embeddings=50)

    def __call__(self, input_ids, **_):
        noise = 1e-7 if input_ids.shape[0] < self.threshold else 0.0
        return SimpleNamespace(logits=input_ids[:, :, None] / 7 + noise)


@pytest.mark.parametrize(("threshold", "smallest"), [(1, 1), (3, 4), (9, 16), (32, 32)])
def test_the_smallest_stable_batch_is_found_by_trying(threshold, smallest):
    assert smallest_stable_batch(Sensitive(threshold)) == smallest


def test_a_processor_that_keeps_no_promise_is_told_of(caplog):
    with caplog.at_level(logging.WARNING):
        assert smallest_stable_batch(Sensitive(64)) == 32
    assert "may differ between runs of another capacity" in caplog.text


def test_on_a_gpu_nothing_is_tried():
    model = Sensitive(64)
    model.device = torch.device("cuda")
    assert smallest_stable_batch(model) == 1


@pytest.mark.parametrize(("count", "rounded"), [(1, 1), (2, 2), (3, 2), (7, 4), (8, 8)])
def test_threads_are_rounded_down_to_a_power_of_two(count, rounded):
    assert power_of_two(count) == rounded


def test_a_threads_threads_are_its_own():
    with threads(3), ThreadPoolExecutor(1) as other:
        other.submit(use_threads, 2).result()
        other.submit(use_threads, 1).result()
        assert other.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 3
