"""`python -m benchmarks [NAME ...] [--quick]`: one JSON object a line and figure."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout

from benchmarks.measuring import Figure

NAMES = (
    "journal",
    "schedule",
    "generation",
    "generation.decode_step",
    "generation.ctranslate2",
    "training",
    "reward_hh",
    "gpu",
)
"""A name stands for all that begin with it, too."""

_SETTINGS = {
    "OMP_NUM_THREADS": "1",  # a ratio is of one thread against one thread
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""The environment of a measurement; libraries read it when they are imported."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was named, or everything, and print each figure as it is known."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="does it run? figures mean nothing")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.names if name not in NAMES]:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    os.environ |= _SETTINGS
    out = sys.stdout
    with redirect_stdout(sys.stderr):  # libraries print as they please; figures stay alone
        for name in meant(asked.names or NAMES):
            for figure in _figures(name, quick=asked.quick):
                print(figure.line(), file=out, flush=True)


def meant(names: Sequence[str]) -> list[str]:
    """What was named and what belongs to it, each once."""
    return [known for known in NAMES if any(f"{known}.".startswith(f"{name}.") for name in names)]


def _figures(name: str, *, quick: bool) -> Iterator[Figure]:
    """A benchmark's figures; only the one that is asked for is imported."""
    match name:
        case "journal":
            from benchmarks import journal as benchmark
        case "schedule":
            from benchmarks import schedule as benchmark
        case "generation":
            from benchmarks import generation as benchmark
        case "generation.decode_step":
            from benchmarks import decode as benchmark
        case "generation.ctranslate2":
            from benchmarks import peers as benchmark
        case "training":
            from benchmarks import training as benchmark
        case "reward_hh":
            from benchmarks import reward_hh as benchmark
        case "gpu":
            from benchmarks import gpu as benchmark
        case _:
            raise AssertionError(name)
    return benchmark.figures(quick=quick)


if __name__ == "__main__":
    main()
