"""A tiny policy that can be trained by RL in seconds, prompts for it, and judges."""

import asyncio

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from charter.config import CompareConfig, ReinforceConfig
from charter.console import Silent
from charter.feedback.agent import prepare_agent
from charter.feedback.judge import Judge
from charter.feedback.rehearsal import rehearsal
from charter.feedback.reinforce import reinforce
from charter.feedback.rewards import with_penalties
from charter.feedback.training import Aims
from charter.learning.learner import apply_gradients, gradients, prepare
from charter.learning.tokens import token_task
from charter.learning.train import Keeping
from charter.records import Comparison, Prompt, user
from tests.feedback.judges import CONSTITUTION
from tests.models.conftest import as_loaded, make_tokenizer

PROMPTS = [
    Prompt(id=f"p{number}", messages=(user(text),), kind="benign")
    for number, text in enumerate(
        [
            "the order",
            "my card",
            "please help",
            "tell me",
            "is it my order",
            "can it",
            "no refund",
            "sorry my card",
            "help me please",
            "the refund is my order",
        ]
    )
]


def tiny(**changes):
    """A Llama of random weights that says anything, with a tokenizer of words and letters."""
    tokenizer = make_tokenizer()
    torch.manual_seed(3)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": True,
    }
    return as_loaded(LlamaForCausalLM(LlamaConfig(**shape | changes)), tokenizer)


def short_spoken():
    """The tiny policy, taught to say a word or two and stop."""
    loaded = tiny()
    encoder, model = loaded.encoder, loaded.model
    examples = {
        f"{prompt.id}-{text}": encoder.example(prompt.messages, text)
        for prompt in PROMPTS
        for text in ("yes", "no", "yes please", "sorry")
    }
    task = token_task(model, examples, stage="finetune")
    learner = prepare(model, weight_decay=0.0, longest=32)
    for _ in range(40):
        gradients(learner, task, [tuple(examples)])
        apply_gradients(learner, lr=1e-2, max_grad_norm=1.0)
    model.eval()
    return loaded


@pytest.fixture
def rl(tmp_path):
    """Trains a tiny policy for a reward: `rl(reward, steps=...)` gives agent, trail and place."""

    def run(
        reward,
        *,
        name="run",
        versus=None,
        constraint=None,
        loaded=None,
        progress=None,
        demonstrations=(),
        checkpoint_every_s=0.0,
        **settings,
    ):
        usual = {"steps": 10, "prompts_per_step": 4, "group": 8, "max_new_tokens": 6, "lr": 5e-3}
        usual |= {"kl_weight": 0.0, "monitor_every": 5, "no_eos_penalty": 0.0}
        usual |= {"constraint": settings.pop("constraint_section", None)}
        section = ReinforceConfig(**usual | settings)

        async def indifferent(_):
            return 0.5

        async def work():
            agent = prepare_agent(loaded or tiny(), section=section, capacity=32, seed=1)
            try:
                trail = await reinforce(
                    PROMPTS[:8],
                    watched=PROMPTS[8:],
                    agent=agent,
                    aims=Aims(
                        reward=with_penalties(reward, section=section),
                        constraint=constraint,
                        versus=versus or indifferent,
                        rehearsal=rehearsal(
                            demonstrations,
                            model=agent.model,
                            encoder=agent.encoder,
                            system=None,
                            longest=64,
                            weight=section.sft_weight,
                            count=section.prompts_per_step,
                        )
                        if demonstrations
                        else None,
                    ),
                    section=section,
                    lr=section.lr,
                    seed=1,
                    identity="tiny",
                    keeping=Keeping(
                        tmp_path / name / "ckpt", tmp_path / name / "m.jsonl", checkpoint_every_s
                    ),
                    progress=progress or Silent(),
                )
            finally:
                await agent.sampler.aclose()
            return agent, trail

        return asyncio.run(work())

    return run


@pytest.fixture
def judging():
    """A judge over a model, with the section's settings as given."""

    def make(model, *, constitution=CONSTITUTION, seed=0, **section) -> Judge:
        return Judge(model, constitution, CompareConfig(**section), seed)

    return make


@pytest.fixture
def pair():
    """A comparison on a prompt of some kind."""

    def make(first="one", second="two", *, kind="harmful", tags=()) -> Comparison:
        prompt = Prompt(id="p", messages=(user("Hello?"),), kind=kind, tags=tags)
        return Comparison(id="p:0-1", prompt=prompt, first=first, second=second)

    return make
