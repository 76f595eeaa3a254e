"""The stage: every column answers every held-out prompt several times, and all is graded.

One record is one answer with its grades, so whatever was answered before a run was interrupted is
neither asked nor graded again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

from charter.config import EvaluateConfig
from charter.console import Progress
from charter.constitution import Constitution
from charter.errors import FailureLimitError, PromptError
from charter.evaluation.answers import Answerer, Respondent
from charter.evaluation.figures import GradedAnswer
from charter.evaluation.graders import grade
from charter.evaluation.judging import Judge, judgement
from charter.records import Prompt, content_hash
from charter.run import Tally
from charter.schedule import Store, run_records, stored
from charter.seeding import derive


class Evaluated(NamedTuple):
    """What became of all questions."""

    answers: tuple[GradedAnswer, ...]
    """By column, prompt and sample: the rows of `data/answers.jsonl`."""
    tally: Tally


def in_order(parts: Sequence[Evaluated], *, columns: Sequence[str]) -> Evaluated:
    """The questions to some columns and then those to others as one, by the columns' order."""
    answers = [answer for part in parts for answer in part.answers]
    answers.sort(key=lambda answer: columns.index(answer.column))
    return Evaluated(tuple(answers), reduce(Tally.followed_by, (part.tally for part in parts)))


class _Question(NamedTuple):
    """A prompt that one column is to answer for the `sample`-th time, counted from 0."""

    column: str
    prompt: Prompt
    sample: int
    judge: Judge | None
    """Who grades the answer besides the patterns."""
    key: str

    @property
    def id(self) -> str:
        """What the answer is called."""
        return f"{self.column}/{self.prompt.id}/{self.sample}"


async def evaluate(
    prompts: Collection[Prompt],
    *,
    columns: Mapping[str, Respondent],
    constitution: Constitution,
    judge: Judge | None,
    section: EvaluateConfig,
    seed: int,
    store: Store,
    width: int,
    progress: Progress,
) -> Evaluated:
    """Every column's answers to the same prompts.

    Args:
        prompts: Held-out prompts, with ids of their own.
        columns: Who answers, by column name; `base` is what the others are compared with.
        constitution: What is graded, which need not be what was trained on.
        judge: Grades the first `judged_samples` answers to a prompt besides the patterns.
        section: How many answers, and how drawn.
        seed: The run's; every column answers a prompt's n-th time under the same one.
        store: Finished answers under this constitution and seed.
        width: Answers in flight at once.
        progress: Hears of every answer.

    Raises:
        PromptError: There are no prompts.
        FailureLimitError: More than `section.max_failed` of the answers failed, or none is left.
    """
    _require_prompts(prompts)
    questions = list(_questions(prompts, columns=columns, judge=judge, section=section))

    async def work(question: _Question) -> GradedAnswer:
        answerer = columns[question.column].answer
        return await _graded(question, answerer=answerer, constitution=constitution, seed=seed)

    tally = await run_records(
        questions,
        stage="evaluate",
        work=work,
        key=_key,
        dump=GradedAnswer.model_dump_json,
        store=store,
        width=width,
        max_failed=section.max_failed,
        progress=progress,
        total=len(questions),
        task=_task([*columns]),
    )
    _require_answers(tally)
    found = stored(questions, key=_key, store=store, load=GradedAnswer.model_validate_json)
    return Evaluated(tuple(answer for _, answer in found), tally)


def _task(columns: Sequence[str]) -> str:
    """What is done, by the names of who answers."""
    others = f" and {len(columns) - 1} more" if len(columns) > 1 else ""
    return f"evaluate {columns[0]}{others}"


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


def _questions(
    prompts: Collection[Prompt],
    *,
    columns: Mapping[str, Respondent],
    judge: Judge | None,
    section: EvaluateConfig,
) -> Iterator[_Question]:
    """Every question under a key that tells all that shapes its answer and grades.

    Nothing else is in the key: one more column, prompt or sample leaves the others as they are.
    """
    contents = {prompt.id: content_hash(prompt.model_dump(mode="json")) for prompt in prompts}
    for column, respondent in columns.items():
        for prompt in prompts:
            for sample in range(section.samples):
                by = judge if sample < section.judged_samples else None
                shaping = [respondent.context, contents[prompt.id], by and by.model.fingerprint]
                question = _Question(column, prompt, sample, by, key="")
                yield question._replace(key=f"{question.id}/{content_hash(shaping)}")


def _key(question: _Question) -> str:
    return question.key


async def _graded(
    question: _Question, *, answerer: Answerer, constitution: Constitution, seed: int
) -> GradedAnswer:
    """One answer with its grades.

    The seed does not depend on the column: columns that differ in one thing then differ in their
    answers by that thing alone, which narrows the interval of their difference.
    """
    prompt, judge = question.prompt, question.judge
    answer = await answerer(prompt, derive(seed, "evaluate", prompt.id, question.sample))
    return GradedAnswer(
        id=question.id,
        column=question.column,
        prompt_id=prompt.id,
        kind=prompt.kind,
        tags=prompt.tags,
        sample=question.sample,
        text=answer.text,
        finish=answer.finish,
        grades=grade(prompt, text=answer.text, principles=constitution.principles),
        judgement=None
        if judge is None
        else await judgement(
            prompt, text=answer.text, constitution=constitution, judge=judge.model
        ),
        usage=answer.usage,
        calls=answer.calls,
    )
