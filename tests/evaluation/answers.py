"""Answers as evaluation grades them."""

from charter.evaluation.figures import GradedAnswer
from charter.evaluation.graders import grade
from charter.records import Usage


def graded_answer(text, column, *, prompt, constitution, sample=0):
    """What a column said to a prompt, graded by the constitution's patterns alone."""
    return GradedAnswer(
        id=f"{column}/{prompt.id}/{sample}",
        column=column,
        prompt_id=prompt.id,
        kind=prompt.kind,
        tags=prompt.tags,
        sample=sample,
        text=text,
        grades=grade(prompt, text=text, principles=constitution.principles),
        judgement=None,
        usage=Usage(),
        calls=1,
    )
