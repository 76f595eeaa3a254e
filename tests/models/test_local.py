import asyncio
import random
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import charter
from charter.config import ModelSource
from charter.errors import JudgementError, OverlongError
from charter.models.loading import load
from charter.models.local import LocalModel
from charter.models.network import Network
from charter.models.sampling import uniforms
from charter.records import Sampling, assistant, system, user
from tests.models.conftest import PACKED, PLAIN, make_family, threads

STARTER_DIR = Path(charter.__file__).parent / "starter" / "model"
WORDS = ["the", "order", "refund", "card", "please", "tell", "me", "X", "7", "?", "!"]
CHOICES = ("yes", "no", "A", "yes sorry", "yes no")


@asynccontextmanager
async def opened(loaded, capacity=8):
    model = LocalModel(loaded, capacity=capacity)
    try:
        yield model
    finally:
        await model.aclose()


def dialogue(rng, longest=70):
    words = rng.choices(WORDS, k=rng.randint(1, longest))
    return (user(" ".join(words)[:longest]),)


def sampling(rng):
    return Sampling(
        temperature=rng.choice([0.0, 0.7, 1.0, 1.5]),
        top_p=rng.choice([1.0, 1.0, 0.8]),
        max_new_tokens=rng.randint(1, 50),
    )


def calls_of(rng, count):
    """Calls as functions of a model, each the same whenever it is made."""
    made = []
    for seed in range(count):
        said, how = dialogue(rng), sampling(rng)
        if rng.random() < 0.3:
            choices = rng.sample(CHOICES, k=rng.randint(2, 4))
            made.append(
                lambda model, said=said, choices=choices: model.choose(said, choices=choices)
            )
        else:
            made.append(
                lambda model, said=said, how=how, seed=seed: model.generate(
                    said, sampling=how, seed=seed
                )
            )
    return made


async def one_by_one(loaded, calls):
    async with opened(loaded, capacity=1) as model:
        return [await call(model) for call in calls]


async def all_at_once(loaded, calls, *, capacity, order):
    answers = {}
    async with opened(loaded, capacity=capacity) as model:

        async def answer(index):
            answers[index] = await calls[index](model)

        await asyncio.gather(*(answer(index) for index in order))
    return [answers[index] for index in range(len(calls))]


def full_logprobs(loaded, prompt, answer):
    """Log-probabilities over the vocabulary at each position of the answer, in one plain pass."""
    with torch.inference_mode():
        logits = loaded.model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
    return logits[len(prompt) - 1 : -1].double().log_softmax(-1)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_an_answer_has_the_same_bits_in_any_company(loaded, count):
    rng = random.Random(count)
    calls = calls_of(rng, 40)
    alone = asyncio.run(one_by_one(loaded, calls))
    with threads(count):
        for capacity in (3, 64):
            order = rng.sample(range(len(calls)), k=len(calls))
            crowd = all_at_once(loaded, calls, capacity=capacity, order=order)
            assert asyncio.run(crowd) == alone


@pytest.mark.skipif(not STARTER_DIR.is_dir(), reason="the starter model is not built")
def test_the_starters_answers_have_the_same_bits_in_any_company():
    starter = load(ModelSource(source="starter"))
    rng = random.Random(5)
    calls = calls_of(rng, 12)
    crowd = all_at_once(starter, calls, capacity=8, order=rng.sample(range(12), k=12))
    assert asyncio.run(crowd) == asyncio.run(one_by_one(starter, calls))


def test_an_answer_has_the_same_bits_as_others_leave(loaded):
    said, how = (user("tell me"),), Sampling(max_new_tokens=70)

    async def beside(lengths):
        async with opened(loaded, capacity=32) as model:
            others = [
                model.generate(said, sampling=Sampling(max_new_tokens=length), seed=100 + number)
                for number, length in enumerate(lengths)
            ]
            answers = await asyncio.gather(*others, model.generate(said, sampling=how, seed=0))
            return answers[-1]

    alone = asyncio.run(beside([]))
    assert asyncio.run(beside([1, 2, 3, 5, 8, 13, 21, 34])) == alone
    assert asyncio.run(beside([40] * 20)) == alone


@pytest.mark.parametrize("name", PACKED)
def test_models_that_attend_run_in_slots(name, tokenizer):
    assert Network(make_family(name, tokenizer).model).packs_exactly()


@pytest.mark.parametrize("seed", range(3))
def test_half_precision_models_with_large_keys_run_in_slots(tokenizer, seed):
    torch.manual_seed(seed)
    shape = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, **shape)
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.normal_(0.0, 0.1)
        for layer in model.model.layers:  # like those of the models that were trained so
            layer.self_attn.k_proj.bias.normal_(0.0, 27.0)
            layer.self_attn.q_proj.bias.normal_(0.0, 3.5)
    assert Network(model.to(torch.bfloat16)).packs_exactly()


@pytest.mark.parametrize("name", PLAIN)
def test_models_that_slots_cannot_hold_say_so_once(name, tokenizer, caplog):
    loaded = make_family(name, tokenizer)

    async def ask():
        async with opened(loaded) as model:
            await model.generate((user("me"),), sampling=Sampling(max_new_tokens=2), seed=0)

    asyncio.run(ask())
    assert [record.message for record in caplog.records if "call by call" in record.message]


def test_greedy_answers_equal_those_of_transformers(family):
    rng = random.Random(3)
    dialogues = [dialogue(rng) for _ in range(6)]

    async def answers():
        how = Sampling(temperature=0.0, max_new_tokens=40)
        async with opened(family) as model:
            return await asyncio.gather(
                *(model.generate(said, sampling=how, seed=0) for said in dialogues)
            )

    for said, answer in zip(dialogues, asyncio.run(answers()), strict=True):
        prompt = family.encoder.prompt_ids(said)
        expected = family.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=40,
            eos_token_id=sorted(family.encoder.eos_ids),
            pad_token_id=0,
        )
        assert list(answer.token_ids) == expected[0, len(prompt) :].tolist()
        assert set(answer.logprobs) == {0.0}


def test_samples_invert_the_distribution_of_a_plain_forward_pass(family):
    rng = random.Random(4)

    async def answers():
        async with opened(family) as model:
            how = Sampling(temperature=0.8, max_new_tokens=40)
            dialogues = [dialogue(rng) for _ in range(8)]
            return dialogues, await asyncio.gather(
                *(
                    model.generate(said, sampling=how, seed=seed)
                    for seed, said in enumerate(dialogues)
                )
            )

    for seed, (said, answer) in enumerate(zip(*asyncio.run(answers()), strict=True)):
        prompt = family.encoder.prompt_ids(said)
        tempered = (full_logprobs(family, prompt, answer.token_ids) / 0.8).log_softmax(-1)
        points = uniforms([seed] * len(answer.token_ids), range(len(answer.token_ids)))
        for row, id_, logprob, point in zip(
            tempered, answer.token_ids, answer.logprobs, points, strict=True
        ):
            assert logprob == pytest.approx(row[id_].item(), abs=1e-5)
            end = row.exp().cumsum(-1)[id_].item()
            assert end - row[id_].exp().item() - 1e-5 <= point <= end + 1e-5


def test_choices_get_the_log_probabilities_of_a_plain_forward_pass(family):
    said = (system("help"), user("is it my card?"), assistant("no"), user("yes or no"))

    async def choose():
        async with opened(family) as model:
            return await model.choose(said, choices=CHOICES)

    chosen = asyncio.run(choose())
    assert tuple(chosen) == CHOICES
    for choice, logprob in chosen.items():
        ids = family.encoder.response_ids(choice)
        logprobs = full_logprobs(family, family.encoder.prompt_ids(said), ids)
        expected = sum(logprobs[position, id_].item() for position, id_ in enumerate(ids))
        assert logprob == pytest.approx(expected, abs=1e-5)


def test_an_answer_ends_with_the_terminator_or_at_its_length(loaded):
    async def answers():
        async with opened(loaded, capacity=64) as model:
            how = Sampling(max_new_tokens=50)
            return await asyncio.gather(
                *(model.generate((user("tell me"),), sampling=how, seed=seed) for seed in range(64))
            )

    finishes = set()
    for answer in asyncio.run(answers()):
        ended = answer.token_ids[-1] in loaded.encoder.eos_ids
        assert answer.finish == ("stop" if ended else "length")
        assert not loaded.encoder.eos_ids.intersection(answer.token_ids[:-1])
        assert ended or len(answer.token_ids) == 50
        assert answer.text == loaded.encoder.text(answer.token_ids)
        assert answer.usage.completion_tokens == len(answer.token_ids) == len(answer.logprobs)
        finishes.add(answer.finish)
    assert finishes == {"stop", "length"}


def test_an_answer_ends_where_the_context_does(loaded):
    async def ask(length):
        async with opened(loaded) as model:
            how = Sampling(max_new_tokens=200)
            return await model.generate((user("X" * length),), sampling=how, seed=1)

    overhead = len(loaded.encoder.prompt_ids((user("X"),))) - 1
    answer = asyncio.run(ask(256 - overhead - 3))
    assert len(answer.token_ids) <= 3
    with pytest.raises(OverlongError, match=r"has 256 tokens and leaves no room .* the 256"):
        asyncio.run(ask(256 - overhead))


def test_choices_that_do_not_fit_and_empty_ones_are_errors(loaded):
    async def choose(length, choice):
        async with opened(loaded) as model:
            return await model.choose((user("X" * length),), choices=[choice])

    overhead = len(loaded.encoder.prompt_ids((user("X"),))) - 1
    with pytest.raises(OverlongError, match="no room for 3 more"):
        asyncio.run(choose(256 - overhead - 2, "yes no"))
    with pytest.raises(JudgementError, match="choice '' has no tokens"):
        asyncio.run(choose(1, ""))


def test_the_event_loop_is_not_blocked_while_the_model_writes(loaded):
    async def ticks():
        async with opened(loaded) as model:
            how = Sampling(max_new_tokens=100)
            writing = asyncio.gather(
                *(model.generate((user("X"),), sampling=how, seed=seed) for seed in range(8))
            )
            count = 0
            while not writing.done():
                await asyncio.sleep(0.001)
                count += 1
            return count

    assert asyncio.run(ticks()) > 10
