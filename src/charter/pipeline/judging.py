"""The judge of a run: the same one wherever responses are compared."""

from __future__ import annotations

from charter.constitution import Constitution
from charter.feedback.judge import Judge, settled_judge
from charter.model import Model
from charter.pipeline.workspace import Workspace
from charter.screening import Threshold, fit_threshold

SHAPES_VERDICTS = {
    "principles", "chain_of_thought", "clamp", "votes", "tie_margin", "max_new_tokens",
}  # fmt: skip
"""The settings of `compare` that shape a verdict."""


async def open_judge(
    workspace: Workspace, model: Model, *, constitution: Constitution
) -> tuple[Judge, Threshold]:
    """A judge over an open model, and how well it tells the principles' own tests apart.

    Raises:
        BackendError: The model could not answer.
        JudgementError: Its answers cannot be read.
    """
    config = workspace.config
    threshold = await fit_threshold(constitution, judge=model)
    judge = settled_judge(
        model,
        constitution=constitution,
        section=config.compare,
        seed=config.seed,
        threshold=threshold,
    )
    return judge, threshold
