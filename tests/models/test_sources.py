import asyncio

import pytest

from charter.config import ModelsConfig, ModelSource
from charter.errors import BackendError, ConfigError
from charter.models.sources import open_model, open_models
from charter.records import Sampling, user


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.yaml"
    path.write_text("default: {text: Hello.}\n")
    return ModelSource(source=f"scripted:{path}", capacity=5)


def generate(model):
    return model.generate((user("Hi"),), sampling=Sampling(max_new_tokens=4), seed=0)


def test_a_script_answers(script):
    async def run():
        model = await open_model(script)
        return model.capacity, (await generate(model)).text

    assert asyncio.run(run()) == (5, "Hello.")


def test_roles_are_the_policy_where_nothing_else_is_named(script, model_dir):
    async def run():
        judge = ModelSource(source=str(model_dir), capacity=2)
        async with open_models(ModelsConfig(policy=script, judge=judge)) as roles:
            assert roles.policy is roles.critic is roles.reviser
            assert roles.judge is not roles.policy
            assert (await generate(roles.judge)).token_ids
        with pytest.raises(BackendError, match="is closed"):
            await generate(roles.judge)

    asyncio.run(run())


def test_roles_that_name_one_source_share_one_model(model_dir):
    async def run():
        source = ModelSource(source=str(model_dir))
        models = ModelsConfig(policy=source, critic=source.model_copy(), judge=source.model_copy())
        async with open_models(models) as roles:
            assert roles.policy is roles.critic is roles.judge

    asyncio.run(run())


def test_sources_that_differ_in_capacity_share_one_model_with_the_largest(script):
    async def run():
        critic = script.model_copy(update={"capacity": 9})
        judge = script.model_copy(update={"capacity": 2})
        async with open_models(ModelsConfig(policy=script, critic=critic, judge=judge)) as models:
            assert models.policy is models.critic is models.reviser is models.judge
            assert models.policy.capacity == 9

    asyncio.run(run())


def test_what_cannot_be_opened_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        asyncio.run(open_model(ModelSource(source=f"scripted:{tmp_path / 'none.yaml'}")))
    with pytest.raises(BackendError, match="no such directory"):
        asyncio.run(open_model(ModelSource(source=str(tmp_path / "none"))))
