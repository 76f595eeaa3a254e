import random

import numpy as np
import pytest
import torch

from charter.errors import BackendError
from charter.models import rows
from charter.models.calls import Weighing, Writing
from charter.models.network import Network
from charter.models.scheduler import Scheduler
from charter.models.slots import Slots
from charter.records import Sampling
from tests.models.conftest import make_llama, threads

VOCABULARY = 100
SHARED = [7 * i % VOCABULARY for i in range(70)]


def drawn_call(rng, earlier):
    """A call that begins like others, or goes on from one."""
    match rng.choice(["fresh", "shared", "shared", "continued", "again"]):
        case "shared":
            head = SHARED
        case "continued" if earlier:
            head = rng.choice(earlier)
        case "again" if earlier:
            head = rng.choice(earlier)[: rng.randint(1, 60)]
        case _:
            head = []
    ids = [*head, *rng.choices(range(VOCABULARY), k=rng.randint(1, 30))][-150:]
    if rng.random() < 0.25:
        common = rng.choices(range(VOCABULARY), k=rng.randint(0, 2))
        endings = [[*common, last] for last in rng.sample(range(VOCABULARY), k=2)]
        return ("weigh", [*ids, *common], endings, 0)
    return ("write", ids, rng.randint(1, 12), rng.randrange(2**32))


def made(call):
    kind, ids, what, seed = call
    if kind == "weigh":
        return Weighing(ids=ids, endings=what)
    how = Sampling(top_p=0.9 if seed % 3 == 0 else 1.0, max_new_tokens=what)
    return Writing(prompt=ids, sampling=how, seed=seed, limit=what, eos_ids=frozenset([0]))


def answer(work):
    if isinstance(work, Weighing):
        return work.result.result(timeout=0)
    work.result.result(timeout=0)
    return work.token_ids, work.logprobs


@torch.inference_mode()
def alone(network, call):
    scheduler = Scheduler(network, capacity=1)
    work = made(call)
    scheduler.add(work)
    while scheduler.busy:
        scheduler.step()
    return answer(work)


@torch.inference_mode()
def scheduled(network, calls, rng):
    """The same calls in some order, at random times, some cancelled, keys lost at times."""
    capacity = rng.choice([1, 2, 3, 5, 16])
    rows = rng.choice([2 * capacity, 16, 48, 512])
    scheduler = Scheduler(network, capacity=capacity, rows=rows)
    answers, order = {}, rng.sample(range(len(calls)), k=len(calls))
    open_ = {}
    number = 0
    while order or scheduler.busy:
        while order and (rng.random() < 0.6 or not scheduler.busy):
            index = order.pop()
            for cancelled in [rng.random() < 0.1, False]:
                work = made(calls[index])
                work.number, number = number, number + 1
                scheduler.add(work)
                if cancelled:
                    open_[f"cancelled {index}"] = work
            open_[index] = work
        if rng.random() < 0.02:
            scheduler.restart(capacity=rng.choice([1, 2, capacity]))
        for name, work in open_.items():
            if isinstance(name, str) and rng.random() < 0.2:
                work.result.cancel()
        scheduler.step()
    for index in range(len(calls)):
        answers[index] = answer(open_[index])
    return answers


def fuzz(network, *, rounds, seed):
    rng = random.Random(seed)
    for _ in range(rounds):
        calls, earlier = [], []
        for _ in range(rng.randint(1, 14)):
            calls.append(drawn_call(rng, earlier))
            earlier.append(calls[-1][1])
        expected = {index: alone(network, call) for index, call in enumerate(calls)}
        for _ in range(5):
            assert scheduled(network, calls, rng) == expected


@pytest.fixture(scope="module")
def network(tokenizer):
    with threads(2):
        return Network(make_llama(tokenizer))


def test_any_schedule_gives_the_bits_of_one_slot(network):
    fuzz(network, rounds=6, seed=0)


def test_layers_that_do_not_end_with_a_vector_keep_their_bits(tokenizer):
    fuzz(Network(make_llama(tokenizer, intermediate_size=176)), rounds=3, seed=2)


@pytest.mark.parametrize("count", [1, 2])
def test_a_single_key_head_keeps_its_bits(tokenizer, count):
    with threads(count):
        fuzz(Network(make_llama(tokenizer, num_key_value_heads=1)), rounds=2, seed=3)


def test_steps_cut_into_passes_keep_their_bits(tokenizer, network, monkeypatch):
    monkeypatch.setattr(rows, "_FEWEST_ROWS", 1)
    with threads(4):
        cut = Network(make_llama(tokenizer))
    calls = [("write", [*SHARED, *range(i)], 6, i + 1) for i in range(1, 9)]
    calls += [("weigh", [*SHARED, 5, i], [[4, 7], [4, 8]], 0) for i in range(8)]
    assert cut.passes == 4
    with threads(1):  # what the network was made with counts
        _, works = run(cut, calls)
    assert [answer(work) for work in works] == [alone(network, call) for call in calls]


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_positions_that_depend_on_the_longest_conversation_are_read_in_one_pass(tokenizer, rope):
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8} if rope == "longrope" else {}
    scaling = {"rope_type": rope, "factor": 2.0, "rope_theta": 10000.0, **factors}
    with threads(4):
        network = Network(make_llama(tokenizer, rope_parameters=scaling))
    assert network._decoder
    assert network.passes == 1


def test_a_part_that_is_added_later_ends_the_passes(tokenizer):
    with threads(2):
        network = Network(make_llama(tokenizer))
    assert network.passes == 2
    network._model.model.norm.register_forward_hook(lambda *_: None)
    assert network.passes == 1


@pytest.mark.parametrize("failing", [0, 1])
def test_a_pass_that_fails_fails_the_step(tokenizer, monkeypatch, failing):
    monkeypatch.setattr(rows, "_FEWEST_ROWS", 1)
    with threads(2):
        network = Network(make_llama(tokenizer))
    scheduler = Scheduler(network, capacity=2)
    for number in range(2):
        scheduler.add(made(("write", [1 + number, 2, 3], 5, number)))
    with torch.inference_mode():
        scheduler.step()
        first, second = (int(slot.call.token_ids[-1]) for slot in scheduler._slots.slots)
        assert first != second
        network._model.model.embed_tokens.weight[[first, second][failing]] = torch.inf
        with pytest.raises(BackendError, match="not finite"):
            scheduler.step()


def test_a_call_begins_when_the_one_that_it_waits_for_is_cancelled(network):
    scheduler = Scheduler(network, capacity=4, rows=64)
    first, second = (made(("write", [*range(1, 90), i], 3, i)) for i in (1, 2))
    scheduler.add(first)
    scheduler.add(second)
    with torch.inference_mode():
        scheduler.step()
        assert [slot.call for slot in scheduler._slots.slots].count(second) == 0
        first.result.cancel()
        scheduler.step()
    assert [slot.call for slot in scheduler._slots.slots].count(second) == 1


@pytest.mark.slow
def test_ten_thousand_schedules_give_the_bits_of_one_slot(network):
    fuzz(network, rounds=2000, seed=1)


@torch.inference_mode()
def run(network, calls, capacity=16):
    scheduler = Scheduler(network, capacity=capacity)
    works = [made(call) for call in calls]
    for number, work in enumerate(works):
        work.number = number
        scheduler.add(work)
    while scheduler.busy:
        scheduler.step()
    return scheduler, works


def test_endings_longer_than_a_step_are_weighed(network):
    call = ("weigh", [1, 2, 3, 4, 5, 6], [[4, 5, 6, 7], [4, 5, 6, 8]], 0)
    scheduler = Scheduler(network, capacity=1, rows=2)
    work = made(call)
    scheduler.add(work)
    with torch.inference_mode():
        for _ in range(4):
            scheduler.step()
    assert answer(work) == alone(network, call)


def test_a_conversation_reads_only_what_is_new(network):
    scheduler, [first] = run(network, [("write", list(range(1, 90)), 5, 3)])
    ids = [*first.prompt, *first.token_ids, 5, 6, 7]
    before = scheduler.rows_read
    second = made(("write", ids, 1, 4))
    scheduler.add(second)
    with torch.inference_mode():
        scheduler.step()
    assert scheduler.rows_read - before <= network.multiple  # four: the last drawn was never read
    assert second.reused == len(ids) - 4


def test_samples_of_one_prompt_read_it_once(network):
    prompt = list(range(1, 81))
    scheduler, works = run(network, [("write", prompt, 4, seed) for seed in range(1, 9)])
    written = sum(len(work.token_ids) for work in works)
    assert scheduler.rows_read <= 80 + 8 + written


def test_what_many_begin_with_is_read_and_stored_once(network):
    calls = [("write", [*SHARED, 1, 2, i], 3, i + 1) for i in range(30)]
    scheduler, works = run(network, calls)
    assert sum(work.reused >= 64 for work in works) >= 29
    assert scheduler.rows_read <= 73 + 29 * (73 - 64) + 30 * 3
    assert [answer(work) for work in works] == [alone(network, call) for call in calls]


def test_a_call_that_came_before_its_prefix_was_stored_joins_it(network):
    scheduler, _ = run(network, [("write", [*SHARED, 1, 2, i], 30, i + 3) for i in range(30)])
    begun = [slot for slot in scheduler._slots.slots if slot.length > 64]
    assert len({id(slot.prefix) for slot in begun}) == 1


def test_slots_that_outgrow_the_memory_say_so():
    slots = Slots(4, most_bytes=200_000)
    new = torch.zeros(1, 2, 2, 16)
    slots.layer(0, new)  # 4 slots x 2 heads x 144 tokens x 16 x 2 x 4 bytes: 147,456
    with pytest.raises(torch.OutOfMemoryError, match="4 slots"):
        slots.layer(1, new)
    with pytest.raises(torch.OutOfMemoryError, match="4 slots"):
        slots.put(slots.slots[0], np.arange(145), known=0)
    slots.put(slots.slots[0], np.arange(144), known=0)
    assert slots.tokens(np.array([0, 0]), np.array([120, 143])).tolist() == [120, 143]
