"""The command line: a command per stage, plus init, check, demo, run, inspect, chat, diff, report.

Everything heavy is imported inside the commands, so that `--help` and `check` answer at once.
"""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import Abort, Exit, TyperException

from charter.console import Terminal, visible
from charter.errors import INTERRUPTED, NO_DISK_OR_MEMORY, CharterError
from charter.launch import is_follower, let_main_speak

_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

app = typer.Typer(
    name="charter",
    help="A written constitution and a language model in; a model that obeys it, and the evidence, "
    "out.",
    epilog="Start with: charter demo, or charter init my-project && charter check "
    "my-project/charter.yaml",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ConfigArgument = Annotated[
    Path, typer.Argument(help="The project's configuration.", metavar="CONFIG")
]
RunOption = Annotated[
    Path, typer.Option("--run", help="Run directory: made, or resumed where it was left.")
]
BegunRunOption = Annotated[Path, typer.Option("--run", help="Run directory; it must be there.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting, such as finetune.epochs=2; to resume a run, give the same.",
    ),
]
ReuseOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--reuse",
        metavar="RUN",
        help="Take finished model calls from another run; trained weights are made anew.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]

DEFAULT_CONFIG = Path("charter.yaml")
DEFAULT_RUN = Path("runs/main")


@app.command(
    epilog="Example: charter init support-bot, or charter init support-bot --model ./my-model, or "
    "charter init support-bot --model org/name"
)
def init(
    directory: Annotated[
        Path, typer.Argument(help="Folder to write the project to.", metavar="DIR")
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="The model to align: a directory or a hub id. Settings that suit the tiny starter "
            "only are then left at their defaults.",
        ),
    ] = "starter",
) -> None:
    """Write a small project that runs as it is: on the starter model, or on yours."""
    from charter.project import init_project

    terminal = Terminal()
    for path in init_project(directory, model=model):
        terminal.say(f"wrote {path}")
    if model != "starter":
        terminal.say(f"put your rules and prompts in place of the examples in {directory}/")
    terminal.say(f"next: charter check {directory}/charter.yaml")
    terminal.say(f"      charter run {directory}/charter.yaml --run runs/{directory.name}")


@app.command(epilog="Example: charter check my-project/charter.yaml")
def check(
    config: ConfigArgument = DEFAULT_CONFIG,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Validate the configuration, its constitution and its prompts; loads no model."""
    from charter.project import check_project

    terminal = Terminal(quiet=as_json)
    report = check_project(config, overrides=overrides or ())
    if as_json:
        terminal.result(json.dumps(report.summary(), indent=2))
    else:
        for line in report.lines():
            terminal.result(visible(line))
        for problem in report.problems:
            terminal.error(problem)
    if report.problems:
        raise Exit(2)


@app.command(epilog="Example: charter demo --run runs/demo")
def demo(run: RunOption = Path("runs/demo"), as_json: JsonOption = False) -> None:
    """Run the whole method on the embedded starter model, in minutes on a laptop."""
    from charter.project import DEMO_CONFIG

    _run(DEMO_CONFIG, run=run, as_json=as_json)


@app.command("run", epilog="Example: charter run charter.yaml --run runs/main --until finetune")
def run_all(
    config: ConfigArgument = DEFAULT_CONFIG,
    run: RunOption = DEFAULT_RUN,
    overrides: SetOption = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Stop after this stage."),
    ] = None,
    reuse: ReuseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run every stage; what is done is skipped, so a rerun resumes."""
    _run(config, run=run, overrides=overrides, until=until, reuse=reuse, as_json=as_json)


@app.command(epilog="Example: charter revise charter.yaml --run runs/main")
def revise(
    config: ConfigArgument = DEFAULT_CONFIG,
    run: RunOption = DEFAULT_RUN,
    overrides: SetOption = None,
    reuse: ReuseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Responses, critiques and revisions: writes the demonstrations."""
    _run(config, run=run, overrides=overrides, only="revise", reuse=reuse, as_json=as_json)


@app.command(epilog="Example: charter finetune charter.yaml --run runs/main")
def finetune(
    config: ConfigArgument = DEFAULT_CONFIG,
    run: RunOption = DEFAULT_RUN,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune on the demonstrations: writes models/sft."""
    _run(config, run=run, overrides=overrides, only="finetune", as_json=as_json)


@app.command(epilog="Example: charter compare charter.yaml --run runs/main")
def compare(
    config: ConfigArgument = DEFAULT_CONFIG,
    run: RunOption = DEFAULT_RUN,
    overrides: SetOption = None,
    reuse: ReuseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pairs of the SFT model's responses, judged: writes the preferences."""
    _run(config, run=run, overrides=overrides, only="compare", reuse=reuse, as_json=as_json)


@app.command(epilog="Example: charter reward charter.yaml --run runs/main")
def reward(
    config: ConfigArgument = DEFAULT_CONFIG,
    run: RunOption = DEFAULT_RUN,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a reward model on the preferences: writes models/reward."""
    _run(config, run=run, overrides=overrides, only="reward", as_json=as_json)


@app.command(epilog="Example: charter reinforce charter.yaml --run runs/main")
def reinforce(
    config: ConfigArgument = DEFAULT_CONFIG,
    run: RunOption = DEFAULT_RUN,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Reinforce the SFT model by what its reward says: writes models/rl."""
    _run(config, run=run, overrides=overrides, only="reinforce", as_json=as_json)


@app.command(epilog="Example: charter dpo charter.yaml --run runs/main")
def dpo(
    config: ConfigArgument = DEFAULT_CONFIG,
    run: RunOption = DEFAULT_RUN,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the SFT model on the preferences directly: writes models/dpo."""
    _run(config, run=run, overrides=overrides, only="dpo", as_json=as_json)


@app.command(epilog="Example: charter evaluate charter.yaml --run runs/main")
def evaluate(
    config: ConfigArgument = DEFAULT_CONFIG,
    run: RunOption = DEFAULT_RUN,
    overrides: SetOption = None,
    reuse: ReuseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer the held-out prompts with every column and grade them: writes evaluation.json."""
    _run(config, run=run, overrides=overrides, only="evaluate", reuse=reuse, as_json=as_json)


@app.command(epilog="Example: charter inspect charter.yaml --run runs/main --examples 3")
def inspect(
    config: ConfigArgument = DEFAULT_CONFIG,
    run: BegunRunOption = DEFAULT_RUN,
    overrides: SetOption = None,
    examples: Annotated[int, typer.Option(min=1, help="How many examples to show.")] = 3,
) -> None:
    """Show the training mask: what the model reads, and what it learns to write."""
    from charter.pipeline.inspecting import inspect_examples
    from charter.pipeline.workspace import Request

    terminal = Terminal()
    terminal.log_warnings()
    request = Request(config=config, run=run, overrides=tuple(overrides or ()), resumes=True)
    for shown in inspect_examples(request, limit=examples):
        terminal.spans(shown.title, ((shown.prompt, "dim"), (shown.supervised, "bold green")))
    terminal.say("dim: read only; green: trained on, the terminator included")


@app.command(
    epilog="Example: charter chat runs/main, or charter chat runs/main --column base --column rl "
    '--say "hello"'
)
def chat(
    run: Annotated[Path, typer.Argument(help="A run whose fine-tuning is done.", metavar="RUN")],
    say: Annotated[
        list[str] | None, typer.Option(help="Say this instead of asking; may be given again.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="A model to talk to: base, sft, rl or dpo; may be given again. Default: all that "
            "the run has.",
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Talk to the base model and the trained ones side by side."""
    from charter.pipeline.chatting import hold_chat

    terminal = Terminal(quiet=as_json)
    terminal.log_warnings()
    if say is None:
        terminal.say("Each model keeps its own conversation. /new starts over, Ctrl-D ends.")
    hold_chat(
        run,
        terminal=terminal,
        said=say,
        columns=column or (),
        temperature=temperature,
        as_json=as_json,
    )


@app.command(
    epilog="Example: charter diff runs/shop runs/bank, or charter diff runs/shop runs/bank "
    "--column sft"
)
def diff(
    first: Annotated[Path, typer.Argument(help="A finished run.", metavar="RUN_A")],
    second: Annotated[
        Path, typer.Argument(help="Another that answered the same prompts.", metavar="RUN_B")
    ],
    column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Which of their models, such as sft; default: the last trained one of both.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show where two trained models part, by the rules of both; asks no model."""
    from charter.evaluation.contrast_table import contrast_table, example_text, example_title
    from charter.pipeline.contrasting import contrast_runs

    terminal = Terminal(quiet=as_json)
    found = contrast_runs(first, second, column=column)
    if as_json:
        terminal.result(found.model_dump_json(indent=2))
        return
    terminal.table(contrast_table(found))
    terminal.result("")
    for example in found.examples:
        terminal.side_by_side([(example_title(example, found), example_text(example))])
        terminal.side_by_side(
            [(found.first.label, example.first), (found.second.label, example.second)]
        )


@app.command(epilog="Example: charter report runs/main")
def report(
    run: Annotated[Path, typer.Argument(help="A run directory, finished or not.", metavar="RUN")],
    as_json: JsonOption = False,
) -> None:
    """Write report.html anew from what a run has left so far; asks no model."""
    from charter.pipeline.reporting import write_report

    path = write_report(run)
    Terminal().result(json.dumps({"report": str(path)}) if as_json else visible(str(path)))


def _run(
    config: Path,
    *,
    run: Path,
    overrides: list[str] | None = None,
    until: str | None = None,
    only: str | None = None,
    reuse: list[Path] | None = None,
    as_json: bool,
) -> None:
    from charter.pipeline import Request, run_pipeline

    terminal = Terminal(quiet=as_json or is_follower())
    terminal.log_warnings(shown=not is_follower())
    request = Request(
        config=config,
        run=run,
        overrides=tuple(overrides or ()),
        until=until,
        only=only,
        reuse=tuple(reuse or ()),
    )
    try:
        outcome = run_pipeline(request, progress=terminal.progress())
    except KeyboardInterrupt:
        terminal.say("interrupted; the same command resumes where this one stopped")
        raise
    if is_follower():
        return
    if as_json:
        terminal.result(json.dumps(outcome.summary(), indent=2))
        return
    for grid in outcome.grids:
        terminal.table(grid)
    terminal.say(f"\nEverything is in {run}/", style="bold")
    for path, caption in outcome.files:
        terminal.say(f"  {path:<28} {caption}")


def main() -> None:
    """The `charter` command: runs it and ends the process with the documented exit code."""
    sys.exit(_exit_code())


def _exit_code() -> int:
    terminal = Terminal()
    try:
        # typer gives back the code of an `Exit`, and 130 where the user interrupted. It ends the
        # process in silence where stdout is a pipe that nobody reads any more.
        return app(standalone_mode=False) or 0
    except CharterError as error:
        terminal.error(str(error))
        return error.exit_code
    except (KeyboardInterrupt, Abort):
        return INTERRUPTED
    except TyperException as error:
        if is_follower():
            let_main_speak()
            return error.exit_code
        terminal.error(f"{error.format_message()} `--help` shows what there is.")
        return error.exit_code
    except (MemoryError, OSError) as error:
        terminal.error(f"{str(error) or 'out of memory'}. {_remedy(error)}")
        return NO_DISK_OR_MEMORY


def _remedy(error: MemoryError | OSError) -> str:
    if isinstance(error, MemoryError) or error.errno in _OUT_OF_SPACE:
        return "Free some disk or memory; the same command resumes."
    return "Mend the path or its permissions, and run the same command again."


if __name__ == "__main__":
    main()
