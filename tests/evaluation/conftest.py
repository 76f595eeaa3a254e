"""A model that answers by a function, and a store in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from charter.records import Completion, Dialogue, Finish, Sampling, Usage


class SpokenModel:
    """Says what `say` makes of a dialogue and a seed, and keeps what it was asked."""

    fingerprint = "spoken"
    capacity = 4

    def __init__(
        self,
        say: Callable[[Dialogue, int], str] = lambda *_: "",
        choose: Callable[[Dialogue], dict[str, float]] = lambda _: {"yes": -3.0, "no": -0.05},
        end: Callable[[Dialogue], Finish] = lambda _: "stop",
    ) -> None:
        self.say, self.weigh, self.end = say, choose, end
        self.asked: list[tuple[Dialogue, Sampling | None, int | None]] = []

    async def generate(self, dialogue: Dialogue, *, sampling: Sampling, seed: int) -> Completion:
        self.asked.append((dialogue, sampling, seed))
        usage = Usage(prompt_tokens=10, completion_tokens=5)
        text, finish = self.say(dialogue, seed), self.end(dialogue)
        return Completion(text=text, finish=finish, usage=usage)

    async def choose(self, dialogue: Dialogue, *, choices: Sequence[str]) -> dict[str, float]:
        self.asked.append((dialogue, None, None))
        weights = self.weigh(dialogue)
        return {choice: weights[choice] for choice in choices}

    async def aclose(self) -> None:
        pass


class MemoryStore:
    """Finished records in a dictionary."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, record_id: str) -> str | None:
        return self.values.get(record_id)

    def keep(self, record_id: str, value: str) -> None:
        self.values[record_id] = value

    def flush(self) -> None:
        pass

    def spent(self) -> tuple[int, int]:
        return 0, 0


@pytest.fixture
def spoken_model():
    return SpokenModel


@pytest.fixture
def store():
    return MemoryStore()
