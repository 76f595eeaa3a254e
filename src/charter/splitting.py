"""Which prompts validate: whole clusters of near-identical ones, drawn by name.

Whatever is drawn is drawn by name, so the order of the prompts does not matter and a new one
leaves the others where they are, but for those at the edge of a share.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from charter.records import Dialogue
from charter.seeding import shuffled
from charter.similarity import clusters


def dialogue_text(dialogue: Dialogue) -> str:
    """What was said, without the system turn: similar dialogues under one are not alike by it."""
    return "\n".join(message.content for message in dialogue if message.role != "system")


def validation_prompts(
    items: Iterable[tuple[str, str]], *, share: float, near_duplicate: float, seed: int
) -> frozenset[str] | None:
    """Ids of the prompts whose items validate: whole clusters, as many as fit the share.

    Near-identical prompts, and chains of them, stay on one side. A chain too long for the share
    stays in training, so that prompts made from templates cannot empty it.

    Args:
        items: Prompt id and prompt text of each item; a prompt may have several.
        share: Of the items that are to validate.
        near_duplicate: Prompts this similar (Jaccard, 3-grams of words) are near-identical.
        seed: Of the run.

    Returns:
        None where there are not two different prompts, to put on two sides.
    """
    listed = list(items)
    members = _prompt_clusters(dict(listed), threshold=near_duplicate)
    if len(members) < 2:
        return None
    per_prompt = Counter(prompt_id for prompt_id, _ in listed)
    sizes = {name: sum(per_prompt[item] for item in ids) for name, ids in members.items()}
    room = min(max(1, round(share * len(listed))), len(listed) - 1)
    order = shuffled(members, seed, "validation")
    chosen: list[str] = []
    for name in order:
        if sizes[name] <= room:
            chosen.append(name)
            room -= sizes[name]
    chosen = chosen or [min(order, key=lambda name: sizes[name])]
    return frozenset(prompt_id for name in chosen for prompt_id in members[name])


def _prompt_clusters(texts: dict[str, str], *, threshold: float) -> dict[str, list[str]]:
    """Ids of near-identical prompts, by the first of them in the alphabet."""
    ids = sorted(texts)
    members: defaultdict[str, list[str]] = defaultdict(list)
    firsts = clusters([texts[prompt_id] for prompt_id in ids], threshold=threshold)
    for prompt_id, first in zip(ids, firsts, strict=True):
        members[ids[first]].append(prompt_id)
    return members
