"""What a run left -> its page: one section after the other, none that would be empty."""

from __future__ import annotations

from collections.abc import Callable

from charter.report.accounts import accounts_section
from charter.report.blocks import Page, Section
from charter.report.examples import examples_section
from charter.report.finetuning import finetuning_section
from charter.report.headline import headline, title
from charter.report.judging import judging_section
from charter.report.outcome import outcome_section
from charter.report.preferring import dpo_section, rewarding_section
from charter.report.reading import Found
from charter.report.reinforcing import reinforcing_section
from charter.report.reproduction import reproduction_section

_SECTIONS: tuple[Callable[[Found], Section | None], ...] = (
    outcome_section,
    examples_section,
    finetuning_section,
    judging_section,
    rewarding_section,
    reinforcing_section,
    dpo_section,
    accounts_section,
    reproduction_section,
)


def build_page(found: Found) -> Page:
    """The page of a run; the same files give the same page."""
    sections = (make(found) for make in _SECTIONS)
    return Page(
        eyebrow=f"charter report · {found.name}",
        title=title(found),
        top=tuple(headline(found)),
        sections=tuple(section for section in sections if section is not None),
    )
