"""A page -> HTML that needs nothing but itself: no script, no request, nothing to execute.

What models and users wrote is hostile: every value is escaped, control characters are shown as
such, and a strict content security policy forbids whatever might slip through all the same.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from charter.console import visible
from charter.report.blocks import Page

_HERE = "charter.report"


def render(page: Page) -> str:
    """The HTML text."""
    style = _resource("page.css")
    return (
        _environment()
        .get_template("page")
        .render(page=page, style=Markup(style), policy=content_policy(style))
    )


def content_policy(style: str) -> str:
    """A policy under which a browser loads nothing, and obeys this one style sheet only."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


@cache
def _environment() -> Environment:
    return Environment(
        loader=DictLoader({name: _resource(f"{name}.html.jinja") for name in ("page", "blocks")}),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """A value before it is escaped: its control characters, direction marks too, made visible."""
    if isinstance(value, Markup):
        return Markup(visible(value))
    return visible(value) if isinstance(value, str) else value


def _resource(name: str) -> str:
    return files(_HERE).joinpath(name).read_text(encoding="utf-8")
