"""A run directory -> one self-contained page that says what was done and whether it worked."""

from charter.report.page import build_page
from charter.report.reading import read_run
from charter.report.rendering import render

__all__ = ["build_page", "read_run", "render"]
