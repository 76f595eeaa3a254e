"""What comparing starts from: the prompts, and preferences that are there already."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from charter.feedback.compare import Chosen, at_most, chosen_prompts
from charter.feedback.misplaced import misplaced_rows
from charter.feedback.preferences import apart_from, each_once, human_row, revised_row
from charter.pipeline.workspace import Workspace
from charter.prompts import PromptCounts, Quarantined, count_prompts, read_prompts, usable_pairs
from charter.records import (
    PreferencePair,
    PreferenceSource,
    Prompt,
    RevisionPair,
    with_system_turn,
)
from charter.run import read_jsonl, write_jsonl

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """What is compared, and the preferences that are there already."""

    prompts: PromptCounts
    chosen: Chosen
    extra: Mapping[PreferenceSource, list[PreferencePair]]
    dropped: Mapping[PreferenceSource, Mapping[str, int]]
    """How many of the extra ones are left out, by reason."""

    def left_out(
        self, taken: Mapping[PreferenceSource, list[PreferencePair]]
    ) -> dict[str, dict[str, int]]:
        """The same, with those beyond the share that was taken."""
        return {
            name: {**self.dropped[name], "share": len(rows) - len(taken[name])}
            for name, rows in self.extra.items()
        }


def gathered(workspace: Workspace) -> Material:
    """Reads the prompts and the other sources of preferences; writes down the unusable rows.

    Raises:
        PromptError: No prompt is usable, or none of people's preferences, or a file is missing.
        ConfigError: The mix of kinds cannot be had.
        RunError: What `revise` wrote cannot be read.
    """
    config = workspace.config
    sources, system = config.prompts.rl or config.prompts.train, config.prompts.system
    near_duplicate = config.finetune.near_duplicate
    bad: list[Quarantined] = []
    counts = count_prompts(sources, on_bad=bad.append, system=system)
    heldout = tuple(read_prompts(config.prompts.heldout, system=system))
    everyone = feedback_prompts(workspace)
    chosen = at_most(everyone, config.compare.prompts, seed=config.seed)
    found = _by_products(workspace)
    people, unusable = _human(workspace)
    if config.compare.human is not None:
        found["human"] = people
    extra: dict[PreferenceSource, list[PreferencePair]] = {}
    dropped: dict[PreferenceSource, Mapping[str, int]] = {}
    for name, rows in found.items():
        once = each_once(rows)
        extra[name] = apart_from(heldout, rows=once, near_duplicate=near_duplicate)
        dropped[name] = {
            "quarantined": len(unusable) if name == "human" else 0,
            "duplicate": len(rows) - len(once),
            "heldout": len(once) - len(extra[name]),
        }
    _write_down([*bad, *unusable], workspace=workspace)
    return Material(prompts=counts, chosen=chosen, extra=extra, dropped=dropped)


def feedback_prompts(workspace: Workspace) -> Chosen:
    """The prompts of the feedback half: near no held-out one, in the stated mix of kinds.

    Raises:
        PromptError: A file is missing.
        ConfigError: The mix of kinds cannot be had.
    """
    config = workspace.config
    sources, system = config.prompts.rl or config.prompts.train, config.prompts.system
    return chosen_prompts(
        [_as_deployed(prompt, workspace) for prompt in read_prompts(sources, system=system)],
        heldout=tuple(read_prompts(config.prompts.heldout, system=system)),
        near_duplicate=config.finetune.near_duplicate,
        mix=config.compare.mix,
        seed=config.seed,
    )


def _as_deployed(prompt: Prompt, workspace: Workspace) -> Prompt:
    """The prompt under the system turn that fine-tuning put before it."""
    told = with_system_turn(prompt.messages, workspace.config.finetune.system)
    return prompt.model_copy(update={"messages": told})


def _by_products(workspace: Workspace) -> dict[PreferenceSource, list[PreferencePair]]:
    """What `revise` shows without a judge: a revision is better, and better for its prompt."""
    section = workspace.config.compare
    if not section.revised_share and not section.misplaced_share:
        return {}
    revised = _revised(workspace)
    found: dict[PreferenceSource, list[PreferencePair]] = {}
    if section.revised_share:
        found["revision"] = revised
    if section.misplaced_share:
        p_chosen, seed = section.misplaced_p, workspace.config.seed
        found["misplaced"] = list(misplaced_rows(revised, p_chosen=p_chosen, seed=seed))
    return found


def _revised(workspace: Workspace) -> list[PreferencePair]:
    """Revisions over what they revise."""
    config = workspace.config
    tags = {
        prompt.id: prompt.tags
        for prompt in read_prompts(config.prompts.train, system=config.prompts.system)
    }
    pairs = read_jsonl(
        workspace.directory.data / "revision_pairs.jsonl",
        RevisionPair,
        what="pair of responses",
        made_by="revise",
    )
    return [
        revised_row(
            pair,
            p_chosen=config.compare.revised_p,
            tags=tags.get(pair.provenance.prompt_id, ()),
            system=config.finetune.system,
        )
        for pair in pairs
    ]


def human_preferences(workspace: Workspace) -> list[PreferencePair]:
    """People's preferences, each once; the rows that are none are written down.

    Raises:
        PromptError: They are named, but not one can be used.
    """
    people, unusable = _human(workspace)
    _write_down(unusable, workspace=workspace)
    return each_once(people)


def _human(workspace: Workspace) -> tuple[list[PreferencePair], list[Quarantined]]:
    """People's preferences, and the rows that are none."""
    config = workspace.config
    human = config.compare.human
    if human is None:
        return [], []
    unusable: list[Quarantined] = []
    system = config.prompts.system or config.finetune.system
    rows = [
        human_row(pair, p_chosen=human.p_chosen, seed=config.seed, system=system)
        for pair in usable_pairs(human.path, on_bad=unusable.append)
    ]
    return rows, unusable


def _write_down(bad: list[Quarantined], *, workspace: Workspace) -> None:
    path = workspace.directory.data / "quarantined_compare.jsonl"
    if bad:
        write_jsonl(path, bad)
        log.warning("%d rows of prompts or preferences are unusable: see %s", len(bad), path)
    else:
        path.unlink(missing_ok=True)
