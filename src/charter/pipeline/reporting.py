"""Writes the page of a run, from whatever its stages have left so far."""

from __future__ import annotations

from pathlib import Path

from charter.report import build_page, read_run, render
from charter.run import write_atomically

REPORT = "report.html"


def write_report(run: Path) -> Path:
    """Writes the page into the run directory, and says where it lies.

    It only reads what is there, so a run in the middle of its work may be reported on too.

    Raises:
        RunError: There is no run, a file of it cannot be read, or the page cannot be written.
    """
    path = run / REPORT
    html = render(build_page(read_run(run)))
    # A lone surrogate, which JSON can spell and UTF-8 cannot, must not cost the whole page.
    write_atomically(path, html.encode("utf-8", "replace"))
    return path
