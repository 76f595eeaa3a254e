"""What a run costs at most: how often it asks its models, by stage."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import NamedTuple

from charter.config import Config
from charter.constitution import Constitution
from charter.evaluation.columns import STARTED_FROM, opponents
from charter.feedback.compare import slots
from charter.prompts import PromptCounts, read_prompts


def cost(
    config: Config,
    constitution: Constitution,
    *,
    graded: Constitution | None,
    prompts: Mapping[str, PromptCounts],
) -> str:
    """An upper bound of the calls that a run makes, in words.

    Args:
        config: Of the run; its files can be read.
        constitution: What is trained by.
        graded: The constitution that evaluation grades by, where it is another one.
        prompts: How many there are of each sort: `train`, `heldout`, and `rl` where it is named.
    """
    graded, heldout = graded or constitution, prompts["heldout"].valid
    costs = [f"{_to_revise(config, constitution, prompts=prompts['train'].valid)} to revise"]
    asked = prompts["rl" if config.prompts.rl else "train"].valid
    if config.compares:
        costs.append(f"{_to_compare(config, constitution, prompts=asked)} to compare")
    if "rl" in config.learn:
        costs.append(f"{_to_reinforce(config, constitution, prompts=asked)} to reinforce")
    costs.append(
        f"{_to_evaluate(config, constitution, graded=graded, prompts=heldout)} to evaluate"
    )
    to_choose = _to_choose(config, graded, prompts=heldout)
    if to_choose:
        costs.append(f"{to_choose:,} choices between answers")
    return f"at most {', '.join(costs)}"


class _Calls(NamedTuple):
    """How often models are asked at most."""

    texts: int
    questions: int
    """Those answered by the probability of a word: yes or no, (A) or (B)."""
    kind: str = "yes-or-no questions"

    def __str__(self) -> str:
        return f"{self.texts:,} texts and {self.questions:,} {self.kind}"


def _to_mend(config: Config, constitution: Constitution) -> _Calls:
    """For all rounds of critique and revision over one response."""
    section = config.revise
    screened = len(constitution.principles) if section.selection == "screen" else 0
    return _Calls(section.rounds * (2 if section.critique else 1), section.rounds * screened)


def _to_fit(constitution: Constitution) -> int:
    """Questions to fit a threshold: each test has a reply that breaks and one that keeps."""
    return 2 * sum(len(principle.tests) for principle in constitution.principles)


def _to_revise(config: Config, constitution: Constitution, *, prompts: int) -> _Calls:
    mending = _to_mend(config, constitution)
    is_fitted = config.revise.selection == "screen" and config.revise.threshold == "fit"
    fitting = _to_fit(constitution) if is_fitted else 0
    return _Calls(prompts * (1 + mending.texts), prompts * mending.questions + fitting)


def _to_weigh(config: Config, constitution: Constitution, *, pairs: int) -> _Calls:
    """To say which response of each pair is better, besides screening them."""
    section = config.compare
    # Under the drawn principles, and which reply helps more: each in both orders.
    weighed = pairs * 2 * (min(section.principles, len(constitution.principles)) + 1)
    reasons = weighed * max(section.votes, 1) if section.chain_of_thought else 0
    return _Calls(reasons + weighed * section.votes, 0 if section.votes else weighed)


def _to_compare(config: Config, constitution: Constitution, *, prompts: int) -> _Calls:
    """For all pairs of responses, and for the principles' tests that the judge is measured on."""
    section, tests = config.compare, _to_fit(constitution) // 2
    compared = min(prompts, section.prompts or prompts)
    negatives = min(_negatives(config), compared)
    pairs = compared * section.responses * (section.responses - 1) // 2 + negatives + tests
    screened = compared * section.responses + negatives + 2 * tests
    weighing = _to_weigh(config, constitution, pairs=pairs)
    return _Calls(
        compared * section.responses + weighing.texts,
        screened * len(constitution.principles) + _to_fit(constitution) + weighing.questions,
        kind="questions",
    )


def _negatives(config: Config) -> int:
    """How many prompts' responses are also compared with one to a harmful prompt."""
    if config.compare.negatives == 0.0:
        return 0
    sources = config.prompts.rl or config.prompts.train
    asked = tuple(read_prompts(sources, system=config.prompts.system))
    every = slots(asked, section=config.compare, seed=config.seed)
    return sum(slot.negative is not None for slot in every)


def _to_reinforce(config: Config, constitution: Constitution, *, prompts: int) -> _Calls:
    """For the rollouts of all steps, the looks, and the judge's word on either.

    Where the judge was measured on the principles' tests before, its threshold is there.
    """
    section = config.reinforce
    rollouts = section.steps * min(section.prompts_per_step, prompts) * section.group
    watched = min(section.monitor_prompts, prompts // 2)
    # The reference speaks first: all later looks compare with what it said.
    looked = watched * ceil(section.steps / section.monitor_every)
    # A group is a ring: each response is compared with the next.
    ring = rollouts if section.reward == "judge" else 0
    weighing = _to_weigh(config, constitution, pairs=ring + looked)
    screened = ring + looked + watched
    return _Calls(
        rollouts + looked + watched + weighing.texts,
        screened * len(constitution.principles) + weighing.questions,
        kind="questions",
    )


def _to_evaluate(
    config: Config, constitution: Constitution, *, graded: Constitution, prompts: int
) -> _Calls:
    section = config.evaluate
    answers = prompts * section.samples
    mending = _to_mend(config, constitution) if "base+revise" in config.columns else _Calls(0, 0)
    judged = prompts * min(section.judged_samples, section.samples) * len(config.columns)
    # Besides every principle, a judge is asked whether the answer helps.
    judging = judged * (len(graded.principles) + 1) + (_to_fit(graded) if judged else 0)
    return _Calls(
        answers * (len(config.columns) + mending.texts), answers * mending.questions + judging
    )


def _to_choose(config: Config, graded: Constitution, *, prompts: int) -> int:
    """Calls to compare the columns' answers head to head; screening them is grading already."""
    section, asked = config.compare, config.evaluate
    if asked.head_to_head == 0.0:
        return 0
    pairs = sum(
        len(opponents(column, config.columns))
        for column in config.columns
        if column in STARTED_FROM
    )
    # Under the drawn principles, and which reply helps more: each in both orders.
    questions = 2 * (min(section.principles, len(graded.principles)) + 1)
    calls = max(section.votes, 1) * (2 if section.chain_of_thought else 1)
    return prompts * min(asked.judged_samples, asked.samples) * pairs * questions * calls
