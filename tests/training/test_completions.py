"""Sample completions are shown short on the terminal, and whole elsewhere."""

import io
import sys

from rlft_jax import progress
from rlft_jax.training import completions

ROWS = [
    {
        "prompt": [{"role": "user", "content": f"Reach {n} " + "from numbers " * 40 + "now."}],
        "completion": f"a {n}\n    # b {n}\n| c",
        "reward": 0.25 * n,
        "advantage": -1.0,
    }
    for n in range(9)
]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_the_first_few(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    progress._terminal.cache_clear()
    completions.show(30, ROWS)
    progress._terminal.cache_clear()
    shown = terminal.getvalue()
    assert "Completions at step 30" in shown
    assert "user: Reach 0 " in shown
    assert "now." in shown
    assert "a 3 # b 3 | c" in shown
    assert "0.75" in shown
    assert "a 4" not in shown
    assert len(shown) < 8000


def test_nothing_to_show_is_no_table(capsys):
    completions.show(1, [])
    assert capsys.readouterr() == ("", "")


def test_markdown_leaves_texts_as_they_are():
    text = completions.markdown(ROWS[1:2])
    assert "\n\n    a 1\n        # b 1\n    | c" in text
    assert "**completion**: reward 0.25, advantage -1\n" in text
    assert ROWS[1]["prompt"][0]["content"] in text
