import io
import logging
import re

import pytest
from rich.console import Console

from charter.console import Bar, Grid, Lines, Section, Terminal, under_way, visible

ESCAPE = "\x1b[2J"


@pytest.fixture
def screen():
    """A terminal that remembers what it was sent."""
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


def sent(screen):
    return screen.file.getvalue()


@pytest.fixture
def log():
    logger = logging.getLogger("charter")
    before = logger.handlers, logger.level, logger.propagate
    yield logging.getLogger("charter.test")
    logger.handlers, logger.level, logger.propagate = before


@pytest.mark.parametrize("kind", [Bar, Lines])
def test_finished_work_is_told_as_finished_once(screen, kind):
    progress = kind(screen)
    with under_way(progress, "revise", total=3):
        progress.advance(3)
        progress.finish("all mended")
    assert sent(screen).count("all mended") == 1
    assert "stopped" not in sent(screen)


@pytest.mark.parametrize("kind", [Bar, Lines])
@pytest.mark.parametrize(("total", "far"), [(8, "stopped after 2 of 8"), (None, "stopped after 2")])
def test_work_that_an_error_ends_is_told_as_stopped(screen, kind, total, far):
    def work(progress):
        with under_way(progress, "revise", total=total):
            progress.advance(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(kind(screen))
    assert far in sent(screen)
    assert "✓" not in sent(screen)


def test_a_stopped_bar_gives_the_cursor_back(screen):
    with pytest.raises(ValueError, match="x"), under_way(Bar(screen), "training"):
        raise ValueError("x")
    assert sent(screen).rindex("\x1b[?25h") > sent(screen).rindex("\x1b[?25l")


def test_titles_and_warnings_cannot_drive_the_terminal(capsys, log):
    terminal = Terminal()
    terminal.log_warnings()
    terminal.spans(f"{ESCAPE}id", (("text", "dim"),))
    log.warning("record %s failed", f"{ESCAPE}id")
    captured = capsys.readouterr()
    assert visible(f"{ESCAPE}id") in captured.out
    assert visible(f"record {ESCAPE}id failed") in captured.err
    assert "\x1b" not in captured.out + captured.err


def grid(*, name):
    row = (name, *["12.3 % (10-15)"] * 5)
    return Grid("Figures", header=("", *"abcde"), sections=(Section("", (row,)),), footer="x " * 90)


def test_a_table_in_a_pipe_is_wide_enough_to_read(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    Terminal().table(grid(name="a rule broken"))
    lines = capsys.readouterr().out.splitlines()
    assert sum("12.3 % (10-15)" in line for line in lines) == 1
    assert next(line for line in lines if "12.3" in line).count("12.3 % (10-15)") == 5
    assert ("x " * 90).rstrip() in (line.rstrip() for line in lines)


@pytest.mark.parametrize(("columns", "gap"), [(130, "  "), (120, " ")])
def test_a_table_gives_up_space_before_it_breaks_its_cells(monkeypatch, capsys, columns, gap):
    monkeypatch.setenv("COLUMNS", str(columns))
    row = ("a rule broken", *["12.3 % (10-15)"] * 7)
    Terminal().table(Grid("Figures", header=("", *"abcdefg"), sections=(Section("", (row,)),)))
    assert gap.join(row[1:]) in capsys.readouterr().out


def narrow(monkeypatch, capsys, *, columns, figures):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(Console, "is_terminal", True)
    row = ("a rule of a long name", *figures)
    Terminal().table(
        Grid("T", header=("", *"abcdef"), sections=(Section("", (row,)),), footer="many words " * 9)
    )
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()


def test_in_a_narrow_terminal_every_interval_stands_below_its_figure(monkeypatch, capsys):
    figures = ["12.3 % (10-15)", "9.9 % (8-11)", "100 % (94-100)", "7", "-", "50 % (45-55)"]
    lines = narrow(monkeypatch, capsys, columns=80, figures=figures)
    above, below = (line.split() for line in lines if "%" in line or "(" in line)
    assert above == [*["a", "rule", "of", "a", "long", "name"], "12.3", "%", "9.9", "%", "100", "%",
                     "7", "-", "50", "%"]  # fmt: skip
    assert below == ["(10-15)", "(8-11)", "(94-100)", "(45-55)"]


def test_names_give_way_before_figures_do(monkeypatch, capsys):
    lines = narrow(monkeypatch, capsys, columns=60, figures=["100 % (94-100)"] * 6)
    assert sum(line.count("(94-100)") for line in lines) == 6
    assert not any("…" in line for line in lines)


def test_a_footer_breaks_between_words(monkeypatch, capsys):
    lines = narrow(monkeypatch, capsys, columns=80, figures=["-"] * 6)
    footer = [line for line in lines if "word" in line]
    assert len(footer) == 2
    assert {word for line in footer for word in line.split()} == {"many", "words"}


def test_the_name_of_a_row_stays_on_one_line(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "130")
    Terminal().table(grid(name="with alternative that is long"))
    assert "with alternative that is long" in capsys.readouterr().out


def test_a_message_in_a_pipe_is_one_line(capsys):
    Terminal().say("word " * 100)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("columns", "is_beside"), [(80, False), (100, True)])
def test_texts_stand_beside_each_other_only_where_they_can_be_read(
    monkeypatch, capsys, columns, is_beside
):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(Console, "is_terminal", True)
    Terminal().side_by_side([(name, "so it says " * 20) for name in ("base", "sft", "rl")])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= columns
    assert (lines[0].split() == ["base", "sft", "rl"]) is is_beside
    assert any(line.startswith("rl ") for line in lines) is not is_beside
