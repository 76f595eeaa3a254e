"""The models of a run by the role they play, each behind the run's journal."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from charter.config import ModelsConfig, ModelSource
from charter.journal import Journal, JournaledModel
from charter.model import Model
from charter.models.sources import open_model, open_models


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
        models = (self.policy, self.critic, self.reviser, self.judge)
        return max(model.capacity for model in models)


@asynccontextmanager
async def open_roles(
    models: ModelsConfig, *, journal: Journal, stage: str
) -> AsyncGenerator[Roles]:
    """The initial, frozen models of all roles, opened for one stage.

    Raises:
        BackendError: A model could not be loaded.
    """
    async with open_models(models) as opened:
        # By fingerprint: two models that answer alike must not both be asked the same.
        shared = {
            model.fingerprint: JournaledModel(model, journal=journal, stage=stage)
            for model in (opened.policy, opened.critic, opened.reviser, opened.judge)
        }
        yield Roles(
            policy=shared[opened.policy.fingerprint],
            critic=shared[opened.critic.fingerprint],
            reviser=shared[opened.reviser.fingerprint],
            judge=shared[opened.judge.fingerprint],
        )


@asynccontextmanager
async def open_frozen(
    source: ModelSource, *, journal: Journal, stage: str
) -> AsyncGenerator[JournaledModel]:
    """One model behind the journal, opened for one stage.

    Raises:
        BackendError: It could not be loaded.
    """
    model = await open_model(source)
    try:
        yield JournaledModel(model, journal=journal, stage=stage)
    finally:
        await model.aclose()


def trained_source(models: ModelsConfig, *, at: Path | None = None) -> ModelSource:
    """What fine-tuning starts from; with `at`, the result of it that lies there."""
    source = models.train_from or models.policy
    if at is None:
        return source
    return source.model_copy(update={"source": str(at), "revision": None})
