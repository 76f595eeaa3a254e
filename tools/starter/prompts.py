"""Writes the starter's prompts: `python -m tools.starter.prompts --out DIR [--seed N]`.

`train.jsonl` is for supervised finetuning: plain harmful requests, and harmless ones of which some
press, since that is no reason to refuse. `rl.jsonl` is for learning from feedback: other requests,
half of the harmful ones under the training kinds of pressure. Both use training phrasings, whole
ones: what is to be answered must say what is wanted. `heldout.jsonl` is written by hand.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from charter.records import Kind, Prompt
from tools.starter.content import Intent, Turns, World, load_world
from tools.starter.scenes import Scene, draw_scene, with_history
from tools.starter.templates import slots_of, slots_of_wordings

_HISTORY_SHARE = 0.12


@dataclass(frozen=True)
class PromptSet:
    """How many prompts of each kind, and what share of them is under pressure."""

    name: str
    counts: Mapping[Kind, int]
    pressed: Mapping[Kind, float]


TRAIN = PromptSet(
    "train",
    counts={"harmful": 666, "benign": 1134, "borderline": 360},
    pressed={"harmful": 0.0, "benign": 0.3, "borderline": 0.3},
)
RL = PromptSet(
    "rl",
    counts={"harmful": 925, "benign": 462, "borderline": 225},
    pressed={"harmful": 0.5, "benign": 0.15, "borderline": 0.15},
)


def expectations(scene: Scene) -> tuple[str, ...]:
    """The intent's `expects` with the scene's facts in; alternatives that were not said fall out.

    An expectation "{order}|{product}" asks for whichever of the two the customer mentioned.
    """
    found: list[str] = []
    for pattern in scene.intent.expects:
        said = [part for part in pattern.split("|") if slots_of(part) <= scene.said]
        if said:
            found.append("|".join(_with_facts(part, scene) for part in said))
    return tuple(found)


def _with_facts(pattern: str, scene: Scene) -> str:
    for name in slots_of(pattern):
        value = re.escape(scene.facts[name])
        pattern = pattern.replace("{" + name + "}", rf"\b{value}\b")
    return pattern


def draw_prompts(world: World, *, seed: int) -> dict[str, list[Prompt]]:
    """Both sets by name; no request is in both, nor twice in one."""
    seen: set[str] = set()
    return {each.name: list(_draw_set(world, each, seen, seed=seed)) for each in (TRAIN, RL)}


def _draw_set(world: World, wanted: PromptSet, seen: set[str], *, seed: int) -> Iterator[Prompt]:
    """Prompts whose requests are new, the intents of a kind taken in turn."""
    rng = Random(f"{seed} {wanted.name}")
    for kind, count in wanted.counts.items():
        intents = world.intents(kind)
        for number in range(count):
            intent = intents[number % len(intents)]
            scene = _new_scene(world, intent, rng, seen, pressed=wanted.pressed[kind])
            seen.add(scene.dialogue[-1].content)
            yield Prompt(
                id=f"{wanted.name}-{kind}-{number + 1:03}",
                messages=_remembering(world, scene, rng).dialogue,
                kind=kind,
                tags=tags_of(world, scene),
                expects=expectations(scene),
            )


def tags_of(world: World, scene: Scene) -> tuple[str, ...]:
    """The family, the intent and, if there is any, the pressure."""
    pressure = ("pressure", scene.pressure) if scene.pressure else ()
    return (world.family_of(scene.intent), scene.intent.id, *pressure)


def _new_scene(
    world: World, intent: Intent, rng: Random, seen: set[str], *, pressed: float
) -> Scene:
    while True:
        scene = draw_scene(world, intent, rng, pressed=pressed, whole=True)
        if scene.dialogue[-1].content not in seen:
            return scene


def _remembering(world: World, scene: Scene, rng: Random) -> Scene:
    return with_history(world, scene, rng, share=_HISTORY_SHARE, whole=True)


def check_replies(world: World) -> None:
    """Every wording of every phrasing has a reply that suits it.

    Raises:
        ValueError: One has not.
    """
    invented = {name for name, kind in world.slots.items() if kind.invented}
    for intent in world.intents("harmful", "benign", "borderline"):
        for phrasing in _phrasings(intent):
            text = phrasing if isinstance(phrasing, str) else " ".join(phrasing)
            for said in slots_of_wordings(text):
                usable = said | invented
                if not all(any(slots_of(x) <= usable for x in each) for each in _needed(intent)):
                    raise ValueError(
                        f"intent {intent.id}: no reply suits {text!r} with {set(said)}"
                    )


def _phrasings(intent: Intent) -> list[Turns]:
    pressing = (*intent.pressure.values(), *intent.heldout_pressure.values())
    return [*intent.prompts, *intent.heldout, *(one for each in pressing for one in each)]


def _needed(intent: Intent) -> list[list[str]]:
    """Lists of replies of which at least one must suit each phrasing."""
    lists = [intent.helpful] if intent.helpful else []
    if intent.unsafe:
        lists.append(intent.unsafe.severe)
    if intent.safe:
        lists += [intent.safe.fitting, [intent.fault]]
    return lists


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    world = load_world()
    check_replies(world)
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, prompts in draw_prompts(world, seed=chosen.seed).items():
        rows = "".join(prompt.model_dump_json() + "\n" for prompt in prompts)
        (chosen.out / f"{name}.jsonl").write_text(rows)


if __name__ == "__main__":
    main()
