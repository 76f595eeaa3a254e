"""`python -m benchmarks [NAME ...] [--quick]`: one JSON object a line and figure."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from importlib import import_module

from benchmarks.measuring import Figure

_MODULES = {
    "journal": "journal",
    "schedule": "schedule",
    "generation": "generation",
    "generation.decode_step": "decode",
    "generation.ctranslate2": "peers",
    "training": "training",
    "training.reward": "feedback",
    "training.reinforce": "reinforce",
    "reward_hh": "reward_hh",
    "gpu": "gpu",
}
"""The module behind each benchmark."""
NAMES = tuple(_MODULES)
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
    benchmark = import_module(f"benchmarks.{_MODULES[name]}")
    yield from benchmark.figures(quick=quick)


if __name__ == "__main__":
    main()
