"""Bars in terminals, few plain lines elsewhere, and one process that speaks."""

import io
import sys

import pytest

from rlft_jax import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def fresh_terminal(monkeypatch):
    """Terminals of a known size, each made anew."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    progress._terminal.cache_clear()
    yield
    progress._terminal.cache_clear()


def test_a_log_file_gets_a_line_each_tenth_of_the_way(capsys):
    with progress.progress("Sampling", 100, unit="problems") as advance:
        for _ in range(100):
            advance()
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 10
    assert lines[0].startswith("Sampling: 10/100 problems (10%) ")
    assert lines[-1].startswith("Sampling: 100/100 problems (100%) ")
    assert "/s" in lines[0]
    assert "left" in lines[0]
    assert "left" not in lines[-1]


def test_large_leaps_are_told_once_each(capsys):
    with progress.progress("Reading", 10) as advance:
        advance(6, note="loss 0.5")
        advance(4)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(")")[0] for line in lines] == [
        "Reading: 6/10 steps (60%",
        "Reading: 10/10 steps (100%",
    ]
    assert lines[0].endswith("loss 0.5")


def test_what_was_done_before_counts_for_the_place_and_not_for_the_rate(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    pace = progress._Pace(1000, 900)
    clock[0], pace.done = 10.0, 920
    assert pace.rate == 2
    assert str(pace) == "2.0/s, 0:40 left"


def test_slow_steps_are_told_by_how_long_one_takes(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    pace = progress._Pace(4, 0)
    clock[0], pace.done = 20.0, 2
    assert str(pace) == "10.0 s each, 0:20 left"


def test_a_terminal_gets_a_bar_with_markup_shown_as_text(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.progress("RLOO [red]", 4) as advance:
        advance(4, note="[44, 19]")
    assert "RLOO [red]" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()
    assert "[44, 19]" in terminal.getvalue()


def test_other_processes_are_silent(monkeypatch, capsys):
    monkeypatch.setattr(progress, "is_first_process", lambda: False)
    with progress.progress("Sampling", 2) as advance:
        advance(2)
    progress.table("Results", ["", "a"], [["x", "1"]])
    progress.say("Done.")
    assert capsys.readouterr() == ("", "")


def test_tables_keep_brackets_and_do_not_wrap_figures(capsys):
    cells = ["RLOO [44, 19]", *["0.213 [0.190, 0.236]"] * 4]
    progress.table("Results [a]", ["model", "b", "c", "d", "e"], [cells], caption="512 [x]")
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "RLOO" in line]
    assert all(cell in line for cell in cells)
    assert out.splitlines()[0].rstrip() == "Results [a]"
    assert out.endswith("\n512 [x]\n\n")


def test_a_preview_is_above_the_bar_of_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.progress("RLOO", 4) as advance:
        advance(2)
        progress.preview("Step 2", ["prompt", "reward"], [["Reach [44]", "0.5"]])
        progress.say("Step 2: eval_loss 0.5")
        advance(2)
    shown = terminal.getvalue()
    assert "Reach [44]" in shown
    # The bar is drawn again below what was printed.
    assert shown.index("Reach [44]") < shown.index("eval_loss 0.5") < shown.rindex("4/4")


def test_a_log_file_gets_no_preview(capsys):
    progress.preview("Step 2", ["prompt", "reward"], [["Reach [44]", "0.5"]])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("total", "steps"), [(0, 0), (1, 1)])
def test_nothing_to_do_is_no_division_by_zero(total, steps, capsys):
    with progress.progress("Nothing", total) as advance:
        advance(steps)
    assert f"{steps}/{total}" in capsys.readouterr().err
