"""A bar on a terminal, nothing elsewhere."""

import io
import sys

from attar.training.progress import bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_nothing_is_printed_where_nobody_looks(capsys):
    with bar("training") as advance:
        advance(0, 10, 1.0)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_title_count_and_loss(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with bar("training") as advance:
        for step in range(10):
            advance(step, 10, 0.125)
    shown = sys.stderr.getvalue()
    assert "training" in shown
    assert "10/10" in shown
    assert "loss 0.125" in shown
