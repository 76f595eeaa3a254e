"""The reference of settings says what the configuration's classes say."""

from charter.config import Config
from tools.settings import SETTINGS, settings_text


def test_the_reference_is_up_to_date():
    message = "docs/settings.md is out of date: run `python -m tools.settings`"
    assert SETTINGS.read_text(encoding="utf-8") == settings_text(), message


def test_every_section_and_its_defaults_are_in_the_reference():
    text = settings_text()
    for name in Config.model_fields:
        assert f"`{name}`" in text
    assert "| `rounds` | `2` | whole number (≥ 1) |" in text
    assert "| `lr` | `auto` | number (> 0) or `auto` |" in text
    assert "| `clamp` | `[0.4, 0.6]` | 2 values, each number (≥ 0, ≤ 1) |" in text
    assert "| `path` | *required* | path |" in text
    assert "KL(policy \\|\\| reference)" in text
