"""How to make it again: versions, seed, hashes, settings, and the constitution in full."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from charter.config import Config, PromptsConfig
from charter.config.sources import PromptSource
from charter.constitution import Constitution
from charter.report.blocks import Block, Cell, Fact, Facts, Panel, Row, Rows, Section, Source, Table
from charter.report.reading import Found
from charter.run import Manifest, settings


def reproduction_section(found: Found) -> Section:
    """All that the run's results depend on."""
    return Section(
        anchor="reproduction",
        title="The rules, and how to make it again",
        lead=f"charter run {found.name}/config.yaml --run again: the same constitution, prompts, "
        "settings and versions give the same data and weights, bit for bit on a CPU in float32.",
        blocks=tuple(_blocks(found)),
    )


def _blocks(found: Found) -> Iterator[Block]:
    if found.constitution is not None:
        yield _rules(found.constitution)
    yield Panel(facts=tuple(_facts(found.manifest)))
    if found.config is not None:
        yield _settings(found.config)
    for name, text in found.texts.items():
        yield Source(name, text)


def _facts(manifest: Manifest) -> Iterator[Facts]:
    versions = (Fact(name, version) for name, version in manifest.versions.items())
    hashes = (Fact(name, value) for name, value in manifest.hashes.items())
    yield Facts("Seed and versions", (Fact("seed", str(manifest.seed)), *versions))
    yield Facts("Hashes of the input files", tuple(hashes))


def _rules(rules: Constitution) -> Table:
    rows = (Row(item.id, (Cell(item.rule),)) for item in rules.principles)
    return Table(
        caption=f"{rules.name}, version {rules.version}, hash {rules.hash}",
        header=("", "rule"),
        sections=(Rows("", tuple(rows)),),
        text=(0,),
    )


def _settings(config: Config) -> Table:
    """The settings that are not the defaults; the rest follows from the version."""
    nothing = PromptSource(path=Path())
    usual = settings(
        Config(constitution=Path(), prompts=PromptsConfig(train=(nothing,), heldout=(nothing,)))
    )
    own = {key: value for key, value in settings(config).items() if usual.get(key) != value}
    rows = (Row(key, (Cell(json.dumps(value)),)) for key, value in own.items())
    return Table(
        caption="Settings that differ from the defaults",
        header=("", "value"),
        sections=(Rows("", tuple(rows)),),
        text=(0,),
        fold=f"{len(own)} settings that differ from the defaults",
    )
