import asyncio
import threading

import pytest
import torch

from charter.errors import BackendError
from charter.models import engine
from charter.models.calls import Weighing, settle
from charter.models.local import LocalModel
from charter.models.network import Network
from charter.models.scheduler import Scheduler
from charter.records import Sampling, user
from tests.models.conftest import as_loaded, make_llama

PROMPT = (user("tell me"),)
LONG = Sampling(max_new_tokens=240)


class Gate:
    """Holds a model's forward passes up until it is opened, and can make them fail."""

    def __init__(self, model):
        self.model = model
        self.forward = model.forward
        self.reached = threading.Event()
        self.open = threading.Event()
        self.error = None
        self.once = False
        self.rows = []

    def __call__(self, *args, input_ids, **kwargs):
        self.reached.set()
        assert self.open.wait(timeout=20)
        self.rows.append(len(kwargs["logits_to_keep"]))
        if self.error is not None:
            error, self.error = self.error, None if self.once else self.error
            raise error
        return self.forward(*args, input_ids=input_ids, **kwargs)


@pytest.fixture
def gate(loaded):
    return Gate(loaded.model)


@pytest.fixture
def gated(loaded, gate, monkeypatch):
    """A model whose forward passes all go through the gate, once it was probed."""
    model = LocalModel(loaded, capacity=4)
    monkeypatch.setattr(loaded.model, "forward", gate)
    return model


async def until_reached(gate):
    await asyncio.to_thread(gate.reached.wait, 20)


def test_a_cancelled_call_is_dropped_and_the_others_go_on(gated, gate):
    async def run():
        short = Sampling(max_new_tokens=3)
        calls = [
            asyncio.create_task(gated.generate(PROMPT, sampling=how, seed=seed))
            for seed, how in enumerate([LONG, short, LONG])
        ]
        await until_reached(gate)
        calls[0].cancel()
        calls[2].cancel()
        await asyncio.sleep(0)
        gate.open.set()
        answer = await calls[1]
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        await gated.aclose()
        return answer

    assert len(asyncio.run(run()).token_ids) <= 3
    assert len(gate.rows) <= 4


def test_no_more_rows_than_the_capacity_are_written_at_once(gated, gate):
    gate.open.set()

    async def run():
        how = Sampling(max_new_tokens=40)
        await asyncio.gather(
            *(gated.generate(PROMPT, sampling=how, seed=seed) for seed in range(11))
        )
        await gated.aclose()

    asyncio.run(run())
    assert max(gate.rows) == 4


@pytest.mark.parametrize("error", [RuntimeError("kernel"), MemoryError()])
def test_a_failing_model_fails_the_calls_at_hand_and_answers_the_next(gated, gate, error):
    async def run():
        gate.open.set()
        gate.error = error
        both = await asyncio.gather(
            gated.generate(PROMPT, sampling=LONG, seed=0),
            gated.choose(PROMPT, choices=["yes", "yes no"]),
            return_exceptions=True,
        )
        gate.error = None
        answer = await gated.generate(PROMPT, sampling=LONG, seed=0)
        await gated.aclose()
        return both, answer

    both, answer = asyncio.run(run())
    for failure in both:
        assert isinstance(failure, BackendError)
        assert "lower its `capacity` (now 4)" in str(failure)
    assert answer.token_ids


def test_a_model_short_of_memory_goes_on_with_fewer_slots(tokenizer, gated, gate):
    async def asked(model):
        calls = [model.generate(PROMPT, sampling=LONG, seed=seed) for seed in range(4)]
        return await asyncio.gather(*calls)

    async def run():
        gate.open.set()
        gate.error, gate.once = torch.OutOfMemoryError("out of memory"), True
        answers = await asked(gated)
        await gated.aclose()
        with_memory = LocalModel(as_loaded(make_llama(tokenizer), tokenizer), capacity=4)
        expected = await asked(with_memory)
        await with_memory.aclose()
        return answers, expected

    answers, expected = asyncio.run(run())
    assert answers == expected
    assert max(gate.rows[1:]) <= 2


def test_memory_that_never_suffices_fails_the_call(gated, gate):
    async def run():
        gate.open.set()
        gate.error = torch.OutOfMemoryError("out of memory")
        with pytest.raises(BackendError, match="lower its `capacity`"):
            await gated.generate(PROMPT, sampling=LONG, seed=0)
        await gated.aclose()

    asyncio.run(run())


def test_logits_that_are_no_numbers_fail_the_call(loaded, monkeypatch):
    async def run():
        model = LocalModel(loaded, capacity=4)
        monkeypatch.setattr(loaded.model.lm_head, "forward", lambda states: states * torch.nan)
        for call in (
            model.generate(PROMPT, sampling=LONG, seed=0),
            model.choose(PROMPT, choices=["yes"]),
        ):
            with pytest.raises(BackendError, match=r"model tiny failed: .* logits are not finite"):
                await call
        await model.aclose()

    asyncio.run(run())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_no_call_is_left_waiting_when_the_engine_breaks_and_each_hears_why(gated, gate):
    async def run():
        gate.open.set()
        gate.error = AssertionError("a bug")
        for _ in range(2):
            with pytest.raises(BackendError, match=r"tiny broke down .*: AssertionError: a bug\. "):
                await gated.generate(PROMPT, sampling=LONG, seed=0)
        await gated.aclose()

    asyncio.run(run())


def test_closing_fails_the_calls_that_are_still_open(gated, gate):
    async def run():
        calls = [
            asyncio.create_task(gated.generate(PROMPT, sampling=LONG, seed=seed))
            for seed in range(6)
        ]
        await until_reached(gate)
        closing = asyncio.create_task(gated.aclose())
        await asyncio.sleep(0.01)
        gate.open.set()
        await closing
        return await asyncio.gather(*calls, return_exceptions=True)

    assert all(isinstance(failure, BackendError) for failure in asyncio.run(run()))
    assert not any(thread.name == "model tiny" for thread in threading.enumerate())
    assert len(gate.rows) <= 2
    asyncio.run(gated.aclose())


class OneAStep:
    """Answers its oldest call at each step."""

    capacity = 2

    def __init__(self):
        self.calls = []
        self.at_hand = []
        self.restarted = threading.Event()

    @property
    def busy(self):
        return bool(self.calls)

    def add(self, call):
        self.calls.append(call)

    def restart(self, *, capacity):
        assert capacity == self.capacity
        self.restarted.set()

    def drop_all(self):
        self.calls.clear()

    def step(self):
        self.at_hand.append(len(self.calls))
        settle(self.calls.pop(0).result, [])
        return 1


def test_whoever_was_just_answered_can_ask_again_before_the_next_step(monkeypatch):
    monkeypatch.setattr(engine, "_LINGER_S", 20)
    worker = OneAStep()
    running = engine.Engine(worker, name="tiny")
    first, second, third = (Weighing(ids=[1], endings=[[2]]) for _ in range(3))
    running.submit(first)
    running.submit(second)
    first.result.result(timeout=10)
    running.submit(third)
    second.result.result(timeout=10)
    running.close()
    assert worker.at_hand[:2] == [2, 2]


def test_keys_of_old_weights_take_no_room_while_nobody_asks():
    worker = OneAStep()
    running = engine.Engine(worker, name="tiny")
    running.forget()
    assert worker.restarted.wait(timeout=10)
    running.close()


def test_what_is_closed_holds_no_keys(loaded):
    scheduler = Scheduler(Network(loaded.model), capacity=2)
    running = engine.Engine(scheduler, name="tiny")
    weighing = Weighing(ids=[1, 2, 3], endings=[[2]])
    running.submit(weighing)
    weighing.result.result(timeout=10)
    assert scheduler._slots.layers
    running.close()
    assert not scheduler._slots.layers
