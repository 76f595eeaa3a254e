from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charter.errors import BackendError
from charter.journal import Journal, JournaledModel, call_key
from charter.records import Completion, Dialogue, Sampling, Usage, assistant, system, user

DIALOGUE = (user("hello"),)


class Counting:
    """A model that counts its calls, and fails or waits when told to."""

    def __init__(self, *, fingerprint: str = "counting", logprobs: Sequence[float] = ()) -> None:
        self.fingerprint = fingerprint
        self.capacity = 4
        self.calls = 0
        self.failures = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.logprobs = logprobs
        self.tail = ""

    async def generate(self, dialogue: Dialogue, *, sampling: Sampling, seed: int) -> Completion:
        await self._call()
        return Completion(
            text=f"{dialogue[-1].content} {seed} {sampling.temperature:g}{self.tail}",
            token_ids=(1, 2),
            logprobs=(-0.1, -math.inf),
            finish="stop",
            usage=Usage(prompt_tokens=3, completion_tokens=2),
        )

    async def choose(self, dialogue: Dialogue, *, choices: Sequence[str]) -> dict[str, float]:
        assert dialogue == DIALOGUE
        await self._call()
        return dict(zip(choices, self.logprobs, strict=True))

    async def aclose(self) -> None:
        self.calls = -1

    async def _call(self) -> None:
        self.calls += 1
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise BackendError("server gone")


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "journal.sqlite") as opened:
        yield opened


def generate(model: JournaledModel, seed: int = 0):
    return model.generate(DIALOGUE, sampling=Sampling(), seed=seed)


def test_an_identical_call_is_answered_without_the_model(journal):
    async def scenario() -> None:
        inner = Counting()
        model = JournaledModel(inner, journal=journal, stage="revise")
        first = await generate(model)
        assert await generate(model) == first
        assert (inner.calls, model.hits, model.misses) == (1, 1, 1)
        assert model.usage == Usage(prompt_tokens=3, completion_tokens=2)
        assert journal.spent("revise") == (1, 5)

    asyncio.run(scenario())


def test_another_seed_or_model_is_another_call(journal):
    async def scenario() -> None:
        inner, other = Counting(), Counting(fingerprint="other")
        await generate(JournaledModel(inner, journal=journal, stage="revise"), seed=1)
        await generate(JournaledModel(inner, journal=journal, stage="revise"), seed=2)
        await generate(JournaledModel(other, journal=journal, stage="revise"), seed=2)
        assert (inner.calls, other.calls) == (2, 1)

    asyncio.run(scenario())


@settings(max_examples=30, deadline=None)
@given(logprobs=st.lists(st.floats(max_value=0.0), min_size=2, max_size=2))
def test_probabilities_come_back_to_the_bit(tmp_path_factory, logprobs):
    path = tmp_path_factory.mktemp("journal") / "journal.sqlite"

    async def choose(inner: Counting) -> dict[str, float]:
        with Journal(path) as journal:
            model = JournaledModel(inner, journal=journal, stage="judge")
            return await model.choose(DIALOGUE, choices=("yes", "no"))

    inner = Counting(logprobs=logprobs)
    asyncio.run(choose(inner))
    replayed = asyncio.run(choose(inner))
    assert inner.calls == 1
    assert list(replayed) == ["yes", "no"]
    assert [struct.pack("d", p) for p in replayed.values()] == [
        struct.pack("d", p) for p in logprobs
    ]


def test_identical_calls_in_flight_are_made_once(journal):
    async def scenario() -> None:
        inner = Counting()
        model = JournaledModel(inner, journal=journal, stage="revise")
        answers = await asyncio.gather(*(generate(model) for _ in range(5)))
        assert len(set(answers)) == 1
        assert inner.calls == 1
        assert journal.repeated() == (0, 0)

    asyncio.run(scenario())


def test_when_the_first_caller_fails_the_next_asks_again(journal):
    async def scenario() -> None:
        inner = Counting()
        inner.failures = 1
        model = JournaledModel(inner, journal=journal, stage="revise")
        answers = await asyncio.gather(*(generate(model) for _ in range(3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [BackendError, Completion, Completion]
        assert inner.calls == 2

    asyncio.run(scenario())


def test_when_the_first_caller_is_cancelled_the_next_asks_again(journal):
    async def scenario() -> None:
        inner = Counting()
        inner.gate.clear()
        model = JournaledModel(inner, journal=journal, stage="revise")
        first, second = (asyncio.create_task(generate(model)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        inner.gate.set()
        assert (await second).text == "hello 0 1"
        assert first.cancelled()

    asyncio.run(scenario())


def test_a_failed_call_is_not_kept(journal):
    async def scenario() -> None:
        inner = Counting()
        inner.failures = 1
        model = JournaledModel(inner, journal=journal, stage="revise")
        with pytest.raises(BackendError, match="server gone"):
            await generate(model)
        assert (await generate(model)).text == "hello 0 1"
        assert model.misses == 1

    asyncio.run(scenario())


def test_an_answer_that_is_no_unicode_fails_its_call_and_no_other(journal):
    async def scenario() -> None:
        inner = Counting()
        inner.tail = "\ud83d"
        model = JournaledModel(inner, journal=journal, stage="revise")
        with pytest.raises(BackendError, match=r"model counting .*'\\ud83d'.* another seed"):
            await generate(model)
        inner.tail = ""
        assert (await generate(model)).text == "hello 0 1"
        assert (model.misses, journal.spent("revise")) == (1, (1, 5))

    asyncio.run(scenario())


def test_it_stands_for_the_model_behind_it(journal):
    inner = Counting()
    model = JournaledModel(inner, journal=journal, stage="revise")
    assert (model.fingerprint, model.capacity) == ("counting", 4)
    asyncio.run(model.aclose())
    assert inner.calls == -1


def test_a_key_covers_everything_that_determines_the_answer():
    sampling = Sampling().model_dump()
    hot = Sampling(temperature=2.0).model_dump()
    keys = [
        call_key("m", DIALOGUE, sampling=sampling, seed=0),
        call_key("n", DIALOGUE, sampling=sampling, seed=0),
        call_key("m", (user("Hello"),), sampling=sampling, seed=0),
        call_key("m", (system(""), user("hello")), sampling=sampling, seed=0),
        call_key("m", (user("a"), assistant("b"), user("c")), sampling=sampling, seed=0),
        call_key("m", (user("ab"), assistant(""), user("c")), sampling=sampling, seed=0),
        call_key("m", DIALOGUE, sampling=hot, seed=0),
        call_key("m", DIALOGUE, sampling=sampling, seed=1),
        call_key("m", DIALOGUE, choices=["yes", "no"]),
        call_key("m", DIALOGUE, choices=["no", "yes"]),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)
    assert keys[0] == call_key("m", DIALOGUE, seed=0, sampling=sampling)
