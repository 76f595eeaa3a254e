"""The models of a run by the role they play, each behind the run's journal."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from charter.config import ModelsConfig
from charter.journal import Journal, JournaledModel
from charter.model import Model
from charter.models.sources import open_models


@dataclass(frozen=True)
class Roles:
    """Who does what; roles that name one source are one model."""

    policy: Model
    critic: Model
    reviser: Model
    judge: Model

    @property
    def width(self) -> int:
        """Records to keep in flight, so that no model waits for work."""
        return max(model.capacity for model in (self.policy, self.critic, self.reviser))


@asynccontextmanager
async def open_roles(
    models: ModelsConfig, *, journal: Journal, stage: str
) -> AsyncGenerator[Roles]:
    """The initial, frozen models of all roles, opened for one stage.

    Raises:
        BackendError: A model could not be loaded.
    """
    async with open_models(models) as opened:
        shared = {
            id(model): JournaledModel(model, journal=journal, stage=stage)
            for model in (opened.policy, opened.critic, opened.reviser, opened.judge)
        }
        yield Roles(
            policy=shared[id(opened.policy)],
            critic=shared[id(opened.critic)],
            reviser=shared[id(opened.reviser)],
            judge=shared[id(opened.judge)],
        )
