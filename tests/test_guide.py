"""What the guide and the README show can be written as it stands there."""

import json
import re
from pathlib import Path

import pytest

from charter.config import load_config
from charter.constitution import load_constitution
from charter.project import check_project

ROOT = Path(__file__).parents[1]
GUIDE, README = (ROOT / name for name in ("docs/guide.md", "README.md"))
MINIMAL = "constitution: rules.yaml\nprompts: {train: p.jsonl, heldout: h.jsonl}\n"


def blocks(path, kind):
    """The blocks of code of one kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


def test_the_constitutions_are_ones(tmp_path):
    (full,) = [block for block in blocks(GUIDE, "yaml") if "principles:" in block]
    (short,) = blocks(README, "yaml")
    path = tmp_path / "rules.yaml"
    path.write_text(full)
    (principle,) = load_constitution(path).principles
    unsaid = {
        name for name, value in principle if value == type(principle).model_fields[name].default
    }
    assert unsaid == set(), "the full form leaves a key out"
    path.write_text(short)
    assert len(load_constitution(path).principles) == 2


def test_the_prompts_can_be_read(tmp_path):
    (prompts,) = blocks(GUIDE, "json")
    for line in prompts.splitlines():
        assert json.loads(line)
    (tmp_path / "rules.yaml").write_text("- Be kind.\n")
    (tmp_path / "p.jsonl").write_text(prompts)
    (tmp_path / "h.jsonl").write_text('{"prompt": "Hi"}\n')
    (tmp_path / "charter.yaml").write_text(MINIMAL)
    found = check_project(tmp_path / "charter.yaml")
    assert found.problems == []
    assert found.prompts["train"].valid == len(prompts.splitlines())


@pytest.mark.parametrize("block", [b for b in blocks(GUIDE, "yaml") if "principles:" not in b])
def test_the_settings_are_known(tmp_path, block):
    (tmp_path / "charter.yaml").write_text(MINIMAL + block)
    load_config(tmp_path / "charter.yaml")


@pytest.mark.parametrize("path", [README, GUIDE], ids=["readme", "guide"])
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        assert (path.parent / file).exists() if file else anchor in headings, target
