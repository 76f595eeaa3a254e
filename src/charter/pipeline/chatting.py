"""Talks to a run's models side by side: the same words, each with its own conversation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from charter.config import Config, ModelSource, load_config
from charter.console import Terminal
from charter.errors import ConfigError, RunError
from charter.evaluation.columns import BASE, STARTED_FROM
from charter.model import Model
from charter.models.sources import open_model
from charter.pipeline.roles import trained_source
from charter.records import Dialogue, Sampling, assistant, user, with_system_turn
from charter.seeding import derive

_START_OVER = "/new"

Models = Mapping[str, Model]
Conversations = Mapping[str, Dialogue]
"""What was said with each model so far."""


def hold_chat(
    run: Path,
    *,
    terminal: Terminal,
    said: Sequence[str] | None,
    columns: Sequence[str] = (),
    temperature: float,
    as_json: bool,
) -> None:
    """Answers every line that the user says, until there is none.

    Args:
        run: A run directory with a fine-tuned model.
        terminal: Where it is said and shown.
        said: What to say instead of asking the terminal.
        columns: The models to talk to; none means the base and every trained one.
        temperature: Of all models.
        as_json: One JSON object a line instead of columns.

    Raises:
        RunError: There is no run, or its fine-tuning is not done.
        ConfigError: The run has no model of a column that is named.
    """
    config = _config_of(run)
    sources = _chosen(_sources(run, config), columns=columns, run=run)
    lines = said if said is not None else _asked(terminal)
    # A line is read outside the loop: inside, waiting for it would hold up an interruption.
    with (
        asyncio.Runner() as runner,
        _opened(sources, runner=runner) as models,
    ):
        heard: Conversations = dict.fromkeys(models, ())
        for number, line in enumerate(lines):
            if line == _START_OVER:
                heard = dict.fromkeys(models, ())
                continue
            asked = {name: (*dialogue, user(line)) for name, dialogue in heard.items()}
            heard = runner.run(
                _turn(asked, models=models, config=config, temperature=temperature, number=number)
            )
            _show(terminal, heard, as_json=as_json)


def _config_of(run: Path) -> Config:
    if not (run / "models" / "sft").is_dir():
        raise RunError(
            f"{run}: no fine-tuned model to talk to. Name a run directory in which "
            "`charter finetune` is done, such as runs/demo after `charter demo`."
        )
    return load_config(run / "config.yaml")


def _asked(terminal: Terminal) -> Iterator[str]:
    while (line := terminal.ask("you> ")) is not None:
        if line.strip():
            yield line.strip()


def _sources(run: Path, config: Config) -> Mapping[str, ModelSource]:
    """The base model and every trained one that is there, by their columns' names."""
    places = {column: run / "models" / column for column in STARTED_FROM}
    trained = {
        column: trained_source(config.models, at=at)
        for column, at in places.items()
        if any(at.glob("*.safetensors"))
    }
    return {BASE: config.models.policy, **trained}


def _chosen(
    sources: Mapping[str, ModelSource], *, columns: Sequence[str], run: Path
) -> Mapping[str, ModelSource]:
    if missing := [column for column in columns if column not in sources]:
        raise ConfigError(
            f"--column {missing[0]}: {run} has no such model to talk to; it has "
            f"{', '.join(sources)}"
        )
    return {column: sources[column] for column in columns} or sources


@contextmanager
def _opened(sources: Mapping[str, ModelSource], *, runner: asyncio.Runner) -> Generator[Models]:
    """The models by their columns' names, closed at the end."""
    models: dict[str, Model] = {}
    try:
        for name, source in sources.items():
            models[name] = runner.run(open_model(source))
        yield models
    finally:
        for model in models.values():
            runner.run(model.aclose())


async def _turn(
    heard: Conversations, *, models: Models, config: Config, temperature: float, number: int
) -> Conversations:
    """The conversations with each model's answer to the line that they end in."""
    sampling = Sampling(temperature=temperature, max_new_tokens=config.evaluate.max_new_tokens)
    seed = derive(config.seed, "chat", number)
    deployed = config.prompts.system or config.evaluate.system
    answered: dict[str, Dialogue] = {}
    for name, model in models.items():
        asked = with_system_turn(heard[name], deployed)
        answer = await model.generate(asked, sampling=sampling, seed=seed)
        answered[name] = (*heard[name], assistant(answer.text))
    return answered


def _show(terminal: Terminal, heard: Conversations, *, as_json: bool) -> None:
    """What was said last, and what each model answered."""
    answers = {name: dialogue[-1].content for name, dialogue in heard.items()}
    if not as_json:
        terminal.side_by_side(list(answers.items()))
        return
    line = next(iter(heard.values()))[-2].content
    terminal.result(json.dumps({"you": line, **answers}, ensure_ascii=False))
