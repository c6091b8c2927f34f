import json
import threading

import pytest

from rlft_jax.judges.answers import Answers, question_key

MESSAGES = [{"role": "user", "content": "Hi"}]


def test_answers_are_there_again_after_the_process_died(tmp_path):
    path = tmp_path / "deep" / "answers.jsonl"
    before = Answers(path)
    before.put("a", "one\ntwo")
    before.put("b", "größer \u2028")
    # Never closed: what is known is in the file at once.
    after = Answers(path)
    assert (after.get("a"), after.get("b"), after.get("c")) == ("one\ntwo", "größer \u2028", None)
    assert len(after) == 2
    before.close()
    after.close()


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_line_is_skipped_and_nothing_is_glued_to_it(tmp_path, caplog, cut):
    path = tmp_path / "answers.jsonl"
    answers = Answers(path)
    answers.put("a", "one")
    answers.put("b", "two")
    answers.close()
    path.write_bytes(path.read_bytes()[:-cut])
    torn = Answers(path)
    assert (torn.get("a"), torn.get("b")) == ("one", "two" if cut == 1 else None)
    assert ("1 damaged lines" in caplog.text) == (cut > 1)
    torn.put("c", "three")
    torn.close()
    again = Answers(path)
    assert (again.get("a"), again.get("c")) == ("one", "three")
    again.close()


def test_rubbish_in_the_file_is_no_answer(tmp_path, caplog):
    path = tmp_path / "answers.jsonl"
    lines = [b"\xff\xfe", b"[]", b"7", b'{"key": 1, "answer": "x"}', b'{"key": "k"}', b""]
    path.write_bytes(b"\n".join([*lines, b'{"key": "a", "answer": "one"}', b""]))
    answers = Answers(path)
    assert len(answers) == 1
    assert answers.get("a") == "one"
    answers.close()


def test_many_threads_write_whole_lines(tmp_path):
    path = tmp_path / "answers.jsonl"
    answers = Answers(path)
    put = lambda i: [answers.put(f"{i}-{j}", "x" * 2000) for j in range(40)]
    threads = [threading.Thread(target=put, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.close()
    assert len({json.loads(line)["key"] for line in path.read_text().splitlines()}) == 320


def test_without_a_path_answers_live_in_memory():
    answers = Answers()
    answers.put("a", "one")
    assert answers.get("a") == "one"


def test_the_key_depends_on_model_messages_and_settings():
    keys = {
        question_key("m", MESSAGES, {"temperature": 0, "seed": 1}),
        question_key("n", MESSAGES, {"temperature": 0, "seed": 1}),
        question_key("m", [{"role": "user", "content": "Ho"}], {"temperature": 0, "seed": 1}),
        question_key("m", MESSAGES, {"temperature": 1, "seed": 1}),
    }
    assert len(keys) == 4
    assert question_key("m", MESSAGES, {"seed": 1, "temperature": 0}) in keys
