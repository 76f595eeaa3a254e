"""From what the configuration names to models that answer: one `match` chooses the back end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from charter.config import ModelsConfig, ModelSource
from charter.model import Model
from charter.models.scripted import ScriptedModel, read_script


@dataclass(frozen=True)
class OpenModels:
    """An open model for each role; roles that name one source share one."""

    policy: Model
    critic: Model
    reviser: Model
    judge: Model


async def open_model(source: ModelSource) -> Model:
    """The model that `source` names; whoever opens it closes it.

    Raises:
        BackendError: It cannot be loaded.
        ConfigError: A script is wrong.
        EncodingError: Its tokenizer or chat template cannot be used faithfully.
    """
    # In a thread: loading takes seconds, and the event loop must go on.
    return await asyncio.to_thread(_open, source)


def _open(source: ModelSource) -> Model:
    match source.source.split(":", 1):
        case ["scripted", path]:
            return ScriptedModel(read_script(Path(path)), capacity=source.capacity)
        case _:
            # Only here: torch takes seconds to import, and a script needs none of it.
            from charter.models.loading import load
            from charter.models.local import LocalModel

            return LocalModel(load(source), capacity=source.capacity)


@asynccontextmanager
async def open_models(config: ModelsConfig) -> AsyncGenerator[OpenModels]:
    """The models of all roles but `train_from`, closed at the end.

    Critic, reviser and judge are the policy where nothing else is named. Sources that differ only
    in capacity are one model, which has the largest.

    Raises:
        CharterError: See `open_model`.
    """
    named = (config.policy, config.critic, config.reviser, config.judge)
    sources = _at_largest_capacity([source or config.policy for source in named])
    opened: dict[ModelSource, Model] = {}
    async with AsyncExitStack() as stack:
        for source in sources:
            if source not in opened:
                opened[source] = await open_model(source)
                stack.push_async_callback(opened[source].aclose)
        policy, critic, reviser, judge = (opened[source] for source in sources)
        yield OpenModels(policy=policy, critic=critic, reviser=reviser, judge=judge)


def _at_largest_capacity(sources: Sequence[ModelSource]) -> list[ModelSource]:
    """The sources, with equal capacities where nothing else tells them apart."""
    kinds = [source.model_copy(update={"capacity": 1}) for source in sources]
    largest: dict[ModelSource, int] = {}
    for kind, source in zip(kinds, sources, strict=True):
        largest[kind] = max(source.capacity, largest.get(kind, 0))
    return [kind.model_copy(update={"capacity": largest[kind]}) for kind in kinds]
