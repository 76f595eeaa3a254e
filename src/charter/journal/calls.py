"""Puts the journal before a model: a finished call is not made again."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from charter.errors import BackendError
from charter.journal.store import Journal
from charter.model import Model
from charter.records import Completion, Dialogue, Sampling, Usage


class JournaledModel:
    """A frozen model whose finished calls are answered by the journal.

    Identical calls in flight are made once: use one `JournaledModel` per model and stage.
    """

    def __init__(self, model: Model, *, journal: Journal, stage: str) -> None:
        """Put the journal before `model`; what new calls cost is booked on `stage`."""
        self._model = model
        self._journal = journal
        self._stage = stage
        self._in_flight: dict[str, asyncio.Event] = {}
        self.hits = 0
        """Calls answered without the model."""
        self.misses = 0
        """Calls that the model answered."""
        self.usage = Usage()
        """Tokens of the misses, as far as the model states them."""

    @property
    def fingerprint(self) -> str:
        """See `Model.fingerprint`."""
        return self._model.fingerprint

    @property
    def capacity(self) -> int:
        """See `Model.capacity`."""
        return self._model.capacity

    async def generate(self, dialogue: Dialogue, *, sampling: Sampling, seed: int) -> Completion:
        """See `Model.generate`."""

        async def ask() -> tuple[Any, Usage]:
            made = await self._model.generate(dialogue, sampling=sampling, seed=seed)
            return made.model_dump(), made.usage

        key = call_key(
            self.fingerprint, dialogue, sampling=sampling.model_dump(mode="json"), seed=seed
        )
        return Completion.model_validate(await self._answer(key, ask))

    async def choose(self, dialogue: Dialogue, *, choices: Sequence[str]) -> dict[str, float]:
        """See `Model.choose`."""

        async def ask() -> tuple[Any, Usage]:
            return await self._model.choose(dialogue, choices=choices), Usage()

        key = call_key(self.fingerprint, dialogue, choices=list(choices))
        return await self._answer(key, ask)

    async def aclose(self) -> None:
        """Close the model; the journal stays open."""
        await self._model.aclose()

    async def _answer(self, key: str, ask: Callable[[], Awaitable[tuple[Any, Usage]]]) -> Any:
        """The JSON value of a call: kept, being made by another caller, or made now."""
        while (kept := self._journal.call(key)) is None:
            if (being_made := self._in_flight.get(key)) is None:
                return await self._make(key, ask)
            # Then look again: where the other caller failed or was cancelled, this one asks.
            await being_made.wait()
        self.hits += 1
        return json.loads(kept)

    async def _make(self, key: str, ask: Callable[[], Awaitable[tuple[Any, Usage]]]) -> Any:
        made = self._in_flight[key] = asyncio.Event()
        try:
            answer, usage = await ask()
            text = self._text(answer)
            self.misses += 1
            self.usage = Usage(
                prompt_tokens=self.usage.prompt_tokens + usage.prompt_tokens,
                completion_tokens=self.usage.completion_tokens + usage.completion_tokens,
            )
            tokens = usage.prompt_tokens + usage.completion_tokens
            self._journal.keep_call(key, text, stage=self._stage, tokens=tokens)
            return answer
        finally:
            del self._in_flight[key]
            made.set()

    def _text(self, answer: Any) -> str:
        """What the journal keeps of an answer.

        Python writes the shortest digits that read back as the same float, to the bit.

        Raises:
            BackendError: The answer is no Unicode.
        """
        text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BackendError(
                f"model {self.fingerprint} answered with half a character, "
                f"{text[error.start : error.end]!r}, which no file can hold. Ask with another "
                "seed or sampling; if it comes again, mend the script or server that answers."
            ) from error
        return text


def call_key(fingerprint: str, dialogue: Dialogue, **asked: object) -> str:
    """A hash of everything that determines a call's answer, as 64 hex digits.

    Args:
        fingerprint: The model's.
        dialogue: What it is shown.
        asked: What is wanted of it, as JSON-like values: sampling and seed, or choices.
    """
    request = {
        "model": fingerprint,
        "messages": [[message.role, message.content] for message in dialogue],
        **asked,
    }
    text = json.dumps(request, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
