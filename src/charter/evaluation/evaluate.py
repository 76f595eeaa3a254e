"""The stage: every column answers every held-out prompt several times, and all is graded.

One record is one answer with its grades, so whatever was answered before a run was interrupted is
neither asked nor graded again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from charter.config import EvaluateConfig
from charter.console import Progress
from charter.constitution import Constitution
from charter.errors import FailureLimitError, PromptError
from charter.evaluation.answers import Answerer
from charter.evaluation.figures import Evaluation, GradedAnswer
from charter.evaluation.graders import grade
from charter.evaluation.judging import Judge, judgement
from charter.evaluation.summary import summarise
from charter.records import Prompt
from charter.run import Tally
from charter.schedule import Store, run_records, stored
from charter.seeding import derive


class Evaluated(NamedTuple):
    """What became of an evaluation."""

    evaluation: Evaluation
    tally: Tally


class _Question(NamedTuple):
    """A prompt that one column is to answer for the `sample`-th time, counted from 0."""

    column: str
    prompt: Prompt
    sample: int


async def evaluate(
    prompts: Collection[Prompt],
    *,
    columns: Mapping[str, Answerer],
    constitution: Constitution,
    judge: Judge | None,
    section: EvaluateConfig,
    seed: int,
    store: Store,
    width: int,
    progress: Progress,
) -> Evaluated:
    """The figures of all columns on the same prompts.

    Args:
        prompts: Held-out prompts, with ids of their own.
        columns: How to answer, by column name; `base` is what the others are compared with.
        constitution: What is graded, which need not be what was trained on.
        judge: Grades the first `judged_samples` answers to a prompt besides the patterns.
        section: How many answers, and how drawn.
        seed: The run's; every column answers a prompt's n-th time under the same one.
        store: Finished answers; `graded_answers` reads them.
        width: Answers in flight at once.
        progress: Hears of every answer.

    Raises:
        PromptError: There are no prompts.
        FailureLimitError: More than `section.max_failed` of the answers failed, or none is left.
    """
    _require_prompts(prompts)

    async def work(question: _Question) -> GradedAnswer:
        return await _graded(
            question,
            answerer=columns[question.column],
            constitution=constitution,
            judge=judge if question.sample < section.judged_samples else None,
            seed=seed,
        )

    tally = await run_records(
        _questions(prompts, columns=columns, samples=section.samples),
        stage="evaluate",
        work=work,
        key=_record_id,
        dump=GradedAnswer.model_dump_json,
        store=store,
        width=width,
        max_failed=section.max_failed,
        progress=progress,
        total=len(columns) * len(prompts) * section.samples,
    )
    _require_answers(tally)
    answers = graded_answers(prompts, columns=columns, section=section, store=store)
    return Evaluated(summarise(answers, constitution=constitution, judge=judge), tally)


def _require_prompts(prompts: Collection[Prompt]) -> None:
    if not prompts:
        raise PromptError(
            "evaluate: there are no held-out prompts to answer. Name some in `prompts.heldout`, "
            "harmful and benign ones."
        )


def _require_answers(tally: Tally) -> None:
    """Stops where there is nothing to measure, however many failures are allowed."""
    if tally.done:
        return
    reasons = ", ".join(f"{reason} {n}" for reason, n in tally.reasons.items())
    raise FailureLimitError(
        f"evaluate: not one of {tally.entered} answers could be graded ({reasons}). Mend what "
        "the warnings name and run again; overlong prompts need a model with a longer context."
    )


def graded_answers(
    prompts: Collection[Prompt],
    *,
    columns: Collection[str],
    section: EvaluateConfig,
    store: Store,
) -> Iterator[GradedAnswer]:
    """Every finished answer, by column, prompt and sample: the rows of `data/answers.jsonl`."""
    questions = _questions(prompts, columns=columns, samples=section.samples)
    found = stored(questions, key=_record_id, store=store, load=GradedAnswer.model_validate_json)
    return (answer for _, answer in found)


def _questions(
    prompts: Collection[Prompt], *, columns: Collection[str], samples: int
) -> Iterator[_Question]:
    return (
        _Question(column, prompt, sample)
        for column in columns
        for prompt in prompts
        for sample in range(samples)
    )


def _record_id(question: _Question) -> str:
    return f"{question.column}/{question.prompt.id}/{question.sample}"


async def _graded(
    question: _Question,
    *,
    answerer: Answerer,
    constitution: Constitution,
    judge: Judge | None,
    seed: int,
) -> GradedAnswer:
    """One answer with its grades.

    The seed does not depend on the column: columns that differ in one thing then differ in their
    answers by that thing alone, which narrows the interval of their difference.
    """
    prompt = question.prompt
    answer = await answerer(prompt, derive(seed, "evaluate", prompt.id, question.sample))
    return GradedAnswer(
        id=_record_id(question),
        column=question.column,
        prompt_id=prompt.id,
        kind=prompt.kind,
        tags=prompt.tags,
        sample=question.sample,
        text=answer.text,
        grades=grade(prompt, text=answer.text, principles=constitution.principles),
        judgement=None
        if judge is None
        else await judgement(
            prompt, text=answer.text, constitution=constitution, judge=judge.model
        ),
        usage=answer.usage,
        calls=answer.calls,
    )
