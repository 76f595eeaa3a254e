"""What the policy says while it learns: groups of responses to a step's prompts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from charter.model import Model
from charter.records import Completion, Prompt, Sampling
from charter.seeding import derive, shuffled


@dataclass(frozen=True)
class Rollouts:
    """A prompt and the responses that were sampled for it."""

    prompt: Prompt
    responses: tuple[Completion, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """What the responses say."""
        return tuple(response.text for response in self.responses)


def prompts_of_step(prompts: Sequence[Prompt], *, step: int, count: int, seed: int) -> list[Prompt]:
    """The prompts of one step, from 1: a pass over all of them in a drawn order, then another.

    Every pass has an order of its own, which depends on ids alone.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    count = min(count, len(by_id))
    passes = range((step - 1) * count // len(by_id), (step * count - 1) // len(by_id) + 1)
    order = [(turn, name) for turn in passes for name in shuffled(by_id, seed, "rollouts", turn)]
    start = (step - 1) * count - passes[0] * len(by_id)
    # A step that ends one pass and begins the next may draw a prompt twice: once is enough.
    return [by_id[name] for name in dict.fromkeys(name for _, name in order[start:][:count])]


async def roll_out(
    prompts: Sequence[Prompt],
    *,
    policy: Model,
    group: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
) -> list[Rollouts]:
    """So many responses to each prompt, sampled at a temperature from the whole distribution.

    That is the distribution that the update scores; a narrower one would be another policy.

    Raises:
        BackendError: The policy could not answer.
    """
    sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens)

    async def respond(prompt: Prompt) -> Rollouts:
        responses = await asyncio.gather(
            *(
                policy.generate(
                    prompt.messages, sampling=sampling, seed=derive(seed, prompt.id, number)
                )
                for number in range(group)
            )
        )
        return Rollouts(prompt, tuple(responses))

    return list(await asyncio.gather(*(respond(prompt) for prompt in prompts)))
