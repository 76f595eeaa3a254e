"""Writes the starter's prompts: `python -m tools.starter.prompts --out DIR [--seed N]`.

`train.jsonl` uses the training phrasings; `heldout.jsonl` other phrasings with other slot values.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

from charter.records import Kind, Prompt
from tools.starter.content import Intent, World, load_world
from tools.starter.scenes import Scene, draw_scene, with_history
from tools.starter.templates import all_wordings, slots_of

TRAIN_COUNTS: dict[Kind, int] = {"harmful": 300, "benign": 600, "borderline": 180}
HELDOUT_COUNTS: dict[Kind, int] = {"harmful": 63, "benign": 60, "borderline": 21}
_HISTORY_SHARE = 0.15


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


def draw_prompts(
    world: World, rng: Random, *, counts: dict[Kind, int], name: str, heldout: bool
) -> Iterator[Prompt]:
    """Distinct prompts, the intents of a kind taken in turn."""
    seen: set[str] = set()
    for kind, count in counts.items():
        intents = world.intents(kind)
        for number in range(count):
            scene = _new_scene(world, intents[number % len(intents)], rng, seen, heldout=heldout)
            seen.add(scene.dialogue[-1].content)
            yield Prompt(
                id=f"{name}-{kind}-{number + 1:03}",
                messages=scene.dialogue,
                kind=kind,
                tags=(world.family_of(scene.intent), scene.intent.id),
                expects=expectations(scene),
            )


def _new_scene(
    world: World, intent: Intent, rng: Random, seen: set[str], *, heldout: bool
) -> Scene:
    phrasings = intent.heldout if heldout else intent.prompts
    while True:
        scene = draw_scene(world, intent, rng, phrasings=phrasings, heldout=heldout, whole=True)
        if scene.dialogue[-1].content not in seen:
            return with_history(world, scene, rng, share=_HISTORY_SHARE)


def check_replies(world: World) -> None:
    """Every wording of every phrasing has a reply that suits it.

    Raises:
        ValueError: One has not.
    """
    invented = {name for name, kind in world.slots.items() if kind.invented}
    for intent in world.intents("harmful", "benign", "borderline"):
        lists = [intent.helpful]
        if intent.unsafe and intent.safe:
            lists = [intent.unsafe.severe, intent.safe.fitting, [intent.fault]]
        pressing = [one for each in intent.heldout_pressure.values() for one in each]
        for phrasing in (*intent.trained, *intent.heldout, *pressing):
            text = phrasing if isinstance(phrasing, str) else " ".join(phrasing)
            for wording in all_wordings(text):
                usable = slots_of(wording) | invented
                if not all(any(slots_of(one) <= usable for one in each) for each in lists):
                    raise ValueError(f"intent {intent.id}: no reply suits {wording!r}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    world = load_world()
    check_replies(world)
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, counts in (("train", TRAIN_COUNTS), ("heldout", HELDOUT_COUNTS)):
        rng, heldout = Random(f"{chosen.seed} {name}"), name == "heldout"
        prompts = draw_prompts(world, rng, counts=counts, name=name, heldout=heldout)
        with (chosen.out / f"{name}.jsonl").open("w") as file:
            for prompt in prompts:
                file.write(prompt.model_dump_json() + "\n")


if __name__ == "__main__":
    main()
