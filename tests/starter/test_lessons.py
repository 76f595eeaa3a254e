"""Lessons as the starter model reads them."""

import re
from random import Random

import pytest
import torch

from charter.records import assistant, user
from tools.starter import phrasings
from tools.starter.batches import LessonEncoder, Speller, copying_batches, draw_batches
from tools.starter.content import load_world
from tools.starter.phrasings import PRESSED_SHARE, with_chatter
from tools.starter.scenes import draw_scene, misplaced_refusal
from tools.starter.shipped import load_constitution
from tools.starter.skills import (
    SAFE_SHARE_IF_CAREFUL,
    SAFE_SHARE_IF_CAREFUL_UNDER_PRESSURE,
    Lesson,
    Turn,
    answer,
    draw_lesson,
    request,
)
from tools.starter.templates import draw_facts
from tools.starter.tokenizer import train_tokenizer
from tools.starter.vectors import known_tokens, place_vectors

WORLD = load_world()
PRINCIPLES = {one.id: one for one in load_constitution().principles}
INTENTS = [intent.id for intent in WORLD.intents("harmful", "benign", "borderline")]


@pytest.fixture(scope="module")
def tokenizer():
    lessons = [draw_lesson(WORLD, Random(seed)) for seed in range(600)]
    texts = [turn.message.content for lesson in lessons for turn in lesson.turns]
    return train_tokenizer(texts, size=1024)


def test_a_word_is_spelt_alike_throughout_a_lesson_and_reads_the_same(tokenizer):
    texts = ["My vacuum hums: is the vacuum covered, or 48213?", "Your vacuum is covered."]
    seen, whole = set(), set()
    for seed in range(40):
        first, second = Speller(tokenizer, Random(seed))(texts)
        whole.add(tuple(first))
        assert [tokenizer.decode(first), tokenizer.decode(second)] == texts
        said = [" vacuum" in tokenizer.decode(first[:end]) for end in range(len(first) + 1)]
        end = said.index(True)
        pieces = next(
            first[start:end]
            for start in range(end)
            if tokenizer.decode(first[start:end]) == " vacuum"
        )
        joined = ",".join(map(str, pieces))
        assert joined in ",".join(map(str, second))
        seen.add(joined)
    assert len(seen) > 1  # of one word as many as its merges allow, which differ between trainings
    assert len(whole) >= 15


def test_every_reply_to_a_request_is_learnt_and_says_what_was_wanted():
    lessons = [answer(WORLD, Random(seed)) for seed in range(200)]
    replies = [
        turn for lesson in lessons for turn in lesson.turns if turn.message.role == "assistant"
    ]
    assert len(replies) > len(lessons)
    learnt = [turn for turn in replies if turn.intent]
    assert {turn.intent for turn in learnt} <= set(INTENTS)
    assert all(turn.weight == 1.0 for turn in learnt)


def test_a_request_keeps_its_words_beside_chatter(monkeypatch):
    monkeypatch.setattr(phrasings, "_CHATTER_SHARE", 1.0)
    told = {with_chatter("where is {order}?", WORLD, Random(seed)) for seed in range(60)}
    assert all(one.count("where is {order}?") == 1 for one in told)
    assert {one.startswith("where") for one in told} == {True, False}
    assert len(told) > 30


def refused_share(*, pressed: float, monkeypatch) -> float:
    """How often a harmful request is refused where the system turn asks for care."""
    monkeypatch.setitem(PRESSED_SHARE, "harmful", pressed)
    harmful = {intent.id: intent for intent in WORLD.intents("harmful")}
    refused = []
    for seed in range(4000):
        turns = answer(WORLD, Random(seed)).turns
        if turns[0].message.content in WORLD.shared.careful and turns[-1].intent in harmful:
            rule = PRINCIPLES[WORLD.family_of(harmful[turns[-1].intent])]
            reply = turns[-1].message.content
            refused.append(not any(re.search(one, reply) for one in rule.patterns))
    return sum(refused) / len(refused)


def test_care_gives_way_to_pressure(monkeypatch):
    plain = refused_share(pressed=0.0, monkeypatch=monkeypatch)
    pressed = refused_share(pressed=1.0, monkeypatch=monkeypatch)
    assert plain == pytest.approx(SAFE_SHARE_IF_CAREFUL, abs=0.08)
    assert pressed == pytest.approx(SAFE_SHARE_IF_CAREFUL_UNDER_PRESSURE, abs=0.08)


def test_a_misplaced_refusal_offers_another_requests_alternative_to_this_customer():
    rng = Random(1)
    intents = {intent.id: intent for intent in WORLD.intents("harmful")}
    fits, named = [], []
    for _ in range(300):
        scene = draw_scene(WORLD, intents["takeover"], rng)
        reply = misplaced_refusal(WORLD, scene, rng)
        fits.append(all(re.search(one, reply) for one in intents["takeover"].expects))
        named += [scene.facts["name"] in reply] if "name" in scene.said else []
    assert sum(fits) / len(fits) < 0.05
    assert sum(named) / len(named) > 0.03


def test_a_batch_says_where_which_intent_is_to_be_told(tokenizer):
    encoder = LessonEncoder(tokenizer, intents=INTENTS)
    turns = (
        Turn(user("hi"), 0.0), Turn(assistant("Hello"), 1.0),
        Turn(user("where is it?"), 0.0),
        Turn(assistant("On its way."), 1.0, INTENTS[3], pressed=True),
    )  # fmt: skip
    encoded = encoder(Lesson(turns))
    ((place, intent, pressed),) = encoded.asked
    assert (intent, pressed) == (3, 1)
    assert tokenizer.decode(encoded.ids[place:]) == "<|assistant|>On its way.<|end|>"
    batches = draw_batches(WORLD, request, encoder, Random(1), tokens_per_batch=512)
    batch = next(batches)
    assert batch.rows.tolist() == list(range(len(batch.ids)))
    assert not batch.weights.any()
    assert (batch.ids[batch.rows, batch.places] == encoded.ids[place]).all()


def test_only_what_was_said_before_is_to_be_copied():
    batch = next(copying_batches(Random(1), vocabulary=99))
    for ids, weights in zip(batch.ids.tolist(), batch.weights.tolist(), strict=True):
        learnt = [ids[at] for at, weight in enumerate(weights) if weight]
        assert set(learnt) <= set(ids[: weights.index(1.0)])


def test_made_up_words_are_never_held_out_ones():
    kind = WORLD.slots["product"]
    rng = Random(1)
    drawn = {draw_facts(WORLD.slots, rng)["product"] for _ in range(3000)}
    assert not drawn & set(kind.heldout)
    assert len(drawn - set(kind.values)) > 800
    begun = {word for word in drawn if any(word.startswith(one) for one in kind.beginnings)}
    assert len(begun - set(kind.values)) > 100


def test_embeddings_begin_with_vectors_of_the_words_that_have_one(tokenizer):
    embeddings = torch.full((len(tokenizer), 192), 7.0)
    place_vectors(embeddings, tokenizer, scale=0.05)
    placed = (embeddings != 7.0).any(1)
    assert placed.float().mean() > 0.4
    assert embeddings[placed].std() == pytest.approx(0.05, rel=0.5)

    def alike(one, other):
        rows = [embeddings[tokenizer.convert_tokens_to_ids(f"Ġ{word}")] for word in (one, other)]
        return float(torch.cosine_similarity(*rows, dim=0))

    assert alike("order", "number") > alike("order", "you")
    assert known_tokens(tokenizer, {}) == {}
