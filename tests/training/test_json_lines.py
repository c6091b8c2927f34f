"""Facts about logs that are cut back when a run goes on from an earlier step."""

import json
import logging

import pytest

from rlft_jax.training.json_lines import JsonLines


def write(path, steps, *, after=0):
    log = JsonLines(path, after=after)
    for step in steps:
        log.append(step, {"loss": 1 / step, "about": "x" * step})
    log.close()


def test_a_line_is_the_step_and_then_the_rest_sorted(tmp_path):
    write(tmp_path / "log", [2])
    assert (tmp_path / "log").read_bytes() == b'{"step": 2, "about": "xx", "loss": 0.5}\n'


@pytest.mark.parametrize("torn", range(45))
def test_wherever_it_was_torn_a_resumed_log_equals_an_uninterrupted_one(tmp_path, torn):
    write(tmp_path / "whole", range(1, 9))
    write(tmp_path / "log", range(1, 7))
    content = (tmp_path / "log").read_bytes()
    (tmp_path / "log").write_bytes(content[: len(content) - torn])  # at most into step 6
    write(tmp_path / "log", range(5, 9), after=4)
    assert (tmp_path / "log").read_bytes() == (tmp_path / "whole").read_bytes()


def test_nothing_is_appended_to_a_line_that_has_no_end(tmp_path):
    write(tmp_path / "log", [1, 2])
    (tmp_path / "log").write_bytes((tmp_path / "log").read_bytes()[:-1])
    write(tmp_path / "log", [3], after=2)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log").read_bytes().splitlines()]
    assert steps == [1, 3]


def test_all_lines_of_a_step_are_kept_or_cut_together(tmp_path):
    write(tmp_path / "log", [1, 2, 2, 3, 3])
    write(tmp_path / "log", [], after=2)
    assert (tmp_path / "log").read_bytes().count(b"\n") == 3


def test_a_new_run_begins_with_an_empty_log(tmp_path):
    write(tmp_path / "log", [1, 2])
    write(tmp_path / "log", [], after=0)
    assert (tmp_path / "log").read_bytes() == b""


@pytest.mark.parametrize("damage", [b"\0" * 20 + b"\n", b"[]\n", b"{}\n", b"\xff\n", b"nan\n"])
def test_damage_in_the_middle_is_said(tmp_path, caplog, damage):
    write(tmp_path / "log", [1, 2, 3])
    lines = (tmp_path / "log").read_bytes().splitlines(keepends=True)
    (tmp_path / "log").write_bytes(lines[0] + damage + lines[2])
    with caplog.at_level(logging.ERROR):
        write(tmp_path / "log", [], after=3)
    assert (tmp_path / "log").read_bytes() == lines[0]
    assert "Line 2 of" in caplog.text


def test_the_end_that_a_kill_tears_is_no_damage(tmp_path, caplog):
    write(tmp_path / "log", [1, 2])
    with (tmp_path / "log").open("ab") as file:
        file.write(b'{"step": 3, "lo')
    write(tmp_path / "log", [], after=2)
    assert caplog.text == ""


def test_what_is_not_json_is_an_error_and_writes_nothing(tmp_path):
    log = JsonLines(tmp_path / "log", after=0)
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append(1, {"loss": float("nan")})
    log.close()
    assert (tmp_path / "log").read_bytes() == b""
