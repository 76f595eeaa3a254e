"""A Hugging Face causal language model in this process.

The same call gives the same answer, bit for bit on CPU in float32, whatever else is being answered,
in whatever order, at any capacity and after a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence

from charter.errors import JudgementError, OverlongError
from charter.models.calls import Weighing, Writing
from charter.models.engine import Engine, Worker
from charter.models.loading import Loaded
from charter.models.network import Network
from charter.models.plain import PlainLoop
from charter.models.sampling import NEAR
from charter.models.scheduler import Scheduler
from charter.records import Completion, Dialogue, Sampling, Usage

_log = logging.getLogger(__name__)


class LocalModel:
    """A loaded model behind the `Model` protocol; owns the thread that it computes in."""

    def __init__(self, loaded: Loaded, *, capacity: int) -> None:
        """Where the weights change later, say so by `weights_changed`.

        Raises:
            BackendError: The model cannot run in this process.
        """
        self._encoder = loaded.encoder
        self._name = loaded.name
        self._context = loaded.context
        self._fingerprint = loaded.fingerprint
        self._capacity = capacity
        self._engine = Engine(_worker(loaded, capacity=capacity), name=loaded.name)
        self._draws = 0
        self._near_draws = 0

    @property
    def fingerprint(self) -> str:
        """See `Model.fingerprint`."""
        return self._fingerprint

    @property
    def capacity(self) -> int:
        """See `Model.capacity`."""
        return self._capacity

    @property
    def near_draws(self) -> int:
        """How many tokens were drawn so close to a boundary that another machine may differ."""
        return self._near_draws

    async def generate(self, dialogue: Dialogue, *, sampling: Sampling, seed: int) -> Completion:
        """See `Model.generate`; `length` also ends an answer that fills the context.

        Raises:
            OverlongError: The dialogue leaves no room for an answer.
            BackendError: The model failed.
            EncodingError: The chat template refuses the dialogue.
        """
        prompt = self._encoder.prompt_ids(dialogue)
        room = self._room(len(prompt), wanted=1)
        writing = Writing(
            prompt=prompt,
            sampling=sampling,
            seed=seed,
            limit=min(sampling.max_new_tokens, room),
            eos_ids=self._encoder.eos_ids,
            ends=self._ends(sampling.stop) if sampling.stop else None,
        )
        self._engine.submit(writing)
        await asyncio.wrap_future(writing.result)
        self._draws += len(writing.token_ids)
        self._near_draws += writing.near_draws
        return Completion(
            text=_before(sampling.stop, self._encoder.text(writing.token_ids)),
            token_ids=tuple(writing.token_ids),
            logprobs=tuple(writing.logprobs),
            finish="stop" if writing.stopped else "length",
            usage=Usage(prompt_tokens=len(prompt), completion_tokens=len(writing.token_ids)),
        )

    async def choose(self, dialogue: Dialogue, *, choices: Sequence[str]) -> dict[str, float]:
        """See `Model.choose`; a choice of several tokens gets the sum over its tokens.

        Raises:
            OverlongError: A choice does not fit behind the dialogue.
            BackendError: The model failed.
            EncodingError: The chat template refuses the dialogue.
            JudgementError: A choice has no tokens.
        """
        prompt = self._encoder.prompt_ids(dialogue)
        by_ids: defaultdict[tuple[int, ...], dict[str, list[int]]] = defaultdict(dict)
        for choice in choices:
            ending = self._ending(choice)
            self._room(len(prompt), wanted=len(ending))
            by_ids[(*prompt, *ending[:-1])][choice] = ending
        weighings = [
            Weighing(ids=ids, endings=tuple(endings.values())) for ids, endings in by_ids.items()
        ]
        for weighing in weighings:
            self._engine.submit(weighing)
        results = await asyncio.gather(
            *(asyncio.wrap_future(weighing.result) for weighing in weighings)
        )
        weighed: dict[str, float] = {}
        for endings, logprobs in zip(by_ids.values(), results, strict=True):
            weighed |= zip(endings, logprobs, strict=True)
        return {choice: weighed[choice] for choice in choices}

    def weights_changed(self) -> None:
        """Drop all keys and values that older weights computed, before anything else is read."""
        self._engine.forget()

    async def aclose(self) -> None:
        """See `Model.aclose`."""
        await asyncio.to_thread(self._engine.close)
        if self._near_draws:
            _log.info(
                "model %s: %d of %d draws fell within %g of a boundary between two tokens",
                self._name,
                self._near_draws,
                self._draws,
                NEAR,
            )

    def _ends(self, stop: Sequence[str]) -> Callable[[Sequence[int]], bool]:
        def ends(ids: Sequence[int]) -> bool:
            text = self._encoder.text(ids)
            return any(each in text for each in stop)

        return ends

    def _ending(self, choice: str) -> list[int]:
        ids = self._encoder.response_ids(choice)
        if not ids:
            raise JudgementError(
                f"choice {choice!r} has no tokens, so no probability. Give every choice a text."
            )
        return ids

    def _room(self, prompt_length: int, *, wanted: int) -> int:
        """How many ids fit behind a prompt; less than `wanted` is an error."""
        if self._context is None:
            return 2**31
        room = self._context - prompt_length
        if room < wanted:
            raise OverlongError(
                f"the dialogue has {prompt_length} tokens and leaves no room for {wanted} more in "
                f"the {self._context} that {self._name} holds. Shorten it, or name another model."
            )
        return room


def _worker(loaded: Loaded, *, capacity: int) -> Worker:
    """Slots where the model's attention can be sent there, exactly; else the plain loop."""
    network = Network(loaded.model)
    if network.packs_exactly():
        return Scheduler(network, capacity=capacity)
    _log.warning(
        "model %s: its layers keep more than keys and values, or keep them their own way; it "
        "answers call by call, slower and with the same tokens",
        loaded.name,
    )
    return PlainLoop(loaded.model)


def _before(stop: Sequence[str], text: str) -> str:
    """The text up to the first of the stop strings in it."""
    places = [text.find(each) for each in stop if each in text]
    return text[: min(places)] if places else text
