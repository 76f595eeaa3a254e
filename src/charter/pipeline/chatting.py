"""Talks to a run's models side by side: the same words, each with its own conversation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from charter.config import Config, load_config
from charter.console import Terminal
from charter.errors import RunError
from charter.model import Model
from charter.models.sources import open_model
from charter.records import Dialogue, Sampling, assistant, user, with_system_turn
from charter.seeding import derive

_START_OVER = "/new"


def hold_chat(
    run: Path,
    *,
    terminal: Terminal,
    said: Sequence[str] | None,
    temperature: float,
    as_json: bool,
) -> None:
    """Answers every line that the user says, until there is none.

    Args:
        run: A run directory with a fine-tuned model.
        terminal: Where it is said and shown.
        said: What to say instead of asking the terminal.
        temperature: Of both models.
        as_json: One JSON object a line instead of columns.

    Raises:
        RunError: There is no run, or its fine-tuning is not done.
    """
    config = _config_of(run)
    lines = iter(said) if said is not None else _asked(terminal)
    asyncio.run(
        _converse(
            lines,
            trained=run / "models" / "sft",
            config=config,
            terminal=terminal,
            temperature=temperature,
            as_json=as_json,
        )
    )


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


async def _converse(
    lines: Iterator[str],
    *,
    trained: Path,
    config: Config,
    terminal: Terminal,
    temperature: float,
    as_json: bool,
) -> None:
    sampling = Sampling(temperature=temperature, max_new_tokens=config.evaluate.max_new_tokens)
    async with AsyncExitStack() as stack:
        policy = config.models.policy
        sft = policy.model_copy(update={"source": str(trained), "revision": None})
        models: dict[str, Model] = {}
        for name, source in (("base", policy), ("sft", sft)):
            models[name] = await open_model(source)
            stack.push_async_callback(models[name].aclose)
        heard: dict[str, Dialogue] = dict.fromkeys(models, ())
        for turn, line in enumerate(lines):
            if line == _START_OVER:
                heard = dict.fromkeys(models, ())
                continue
            heard = {name: (*dialogue, user(line)) for name, dialogue in heard.items()}
            seed = derive(config.seed, "chat", turn)
            answers = {
                name: await _answer(model, heard[name], config=config, sampling=sampling, seed=seed)
                for name, model in models.items()
            }
            heard = {name: (*heard[name], assistant(text)) for name, text in answers.items()}
            if as_json:
                terminal.result(json.dumps({"you": line, **answers}, ensure_ascii=False))
            else:
                terminal.side_by_side(list(answers.items()))


async def _answer(
    model: Model, dialogue: Dialogue, *, config: Config, sampling: Sampling, seed: int
) -> str:
    asked = with_system_turn(dialogue, config.evaluate.system)
    return (await model.generate(asked, sampling=sampling, seed=seed)).text
