import threading

import pytest

from rlft_jax.judges.answers import Answers
from rlft_jax.judges.endpoint import Chat, Endpoint
from rlft_jax.judges.pairwise import Judgement, Pair, judge
from tests.judges.conftest import Reply, completion


def chat(server, **settings):
    quick = {"timeout_seconds": 5, "attempts": 2, "first_wait_seconds": 0.01}
    return Chat(Endpoint(server.url, "judge", **(quick | settings)))


def shown(request):
    """The two responses of a question, in the order in which they are shown."""
    parts = request["messages"][1]["content"].split("=== ")
    return tuple(part.split("\n", 1)[1].strip() for part in parts[2:4])


def longer_wins(number, request):
    first, second = map(len, shown(request))
    return completion(f"VERDICT: {'TIE' if first == second else 1 if first > second else 2}")


PAIRS = [Pair("a", "long one", "short"), Pair("b", "no", "longer"), Pair("c", "one", "two")]


def test_both_orders_are_asked_and_a_judge_without_bias_agrees_with_itself(server):
    server.reply = longer_wins
    judged = judge(PAIRS, chat(server), Answers())
    assert judged == [Judgement(1.0, 1.0), Judgement(0.0, 0.0), Judgement(0.5, 0.5)]
    assert [one.preference for one in judged] == [1.0, 0.0, 0.5]
    expected = {(p.completion, p.opponent) for p in PAIRS} | {
        (p.opponent, p.completion) for p in PAIRS
    }
    assert len(server.requests) == 6
    assert {shown(request) for request in server.requests} == expected


def test_a_judge_that_always_takes_the_first_is_a_tie(server):
    server.reply = lambda number, request: completion("VERDICT: 1")
    assert judge(PAIRS[:1], chat(server), Answers()) == [Judgement(1.0, 0.0)]


def test_failures_and_unreadable_answers_are_counted_and_never_scored(server):
    def reply(number, request):
        first, _ = shown(request)
        if first == "long one":
            return Reply(b"", 500)
        return completion("I like both.") if first == "no" else completion("VERDICT: 1")

    server.reply = reply
    judged = judge(PAIRS, chat(server), Answers())
    assert judged == [
        Judgement(None, 0.0, failures=1),
        Judgement(None, 0.0, unreadable=1),
        Judgement(1.0, 0.0),
    ]
    assert [one.preference for one in judged] == [None, None, 0.5]


def test_answers_are_asked_for_once_and_failures_again(server, tmp_path):
    path = tmp_path / "answers.jsonl"
    broken = lambda number, request: (
        Reply(b"", 500) if shown(request)[0] == "no" else longer_wins(number, request)
    )
    server.reply = broken
    answers = Answers(path)
    first = judge(PAIRS, chat(server), answers)
    answers.close()
    assert [one.preference for one in first] == [1.0, None, 0.5]

    server.reply, before = longer_wins, len(server.requests)
    answers = Answers(path)
    second = judge(PAIRS, chat(server), answers)
    assert [one.preference for one in second] == [1.0, 0.0, 0.5]
    assert [shown(request) for request in server.requests[before:]] == [("no", "longer")]
    # Other settings are another question.
    judge(PAIRS, chat(server, settings={"temperature": 1}), answers)
    answers.close()
    assert len(server.requests) == before + 1 + 6


def test_equal_completions_are_a_tie_without_a_question_and_equal_pairs_are_asked_once(server):
    server.reply = longer_wins
    pairs = [Pair("a", "same", "same"), PAIRS[0], PAIRS[0]]
    judged = judge(pairs, chat(server), Answers())
    assert [one.preference for one in judged] == [0.5, 1.0, 1.0]
    assert len(server.requests) == 2


@pytest.mark.parametrize("concurrency", [1, 4])
def test_no_more_questions_are_open_than_concurrency_says(server, concurrency):
    server.reply = lambda number, request: completion("VERDICT: 1")._replace(hang=0.05)
    pairs = [Pair(str(i), "a", "b") for i in range(10)]
    judged = judge(pairs, chat(server), Answers(), concurrency=concurrency)
    assert judged == [Judgement(1.0, 0.0)] * 10
    assert server.most_at_once == concurrency


def test_a_wrong_key_is_known_after_one_question(server):
    server.reply = lambda number, request: Reply(b"who are you?", 401)
    pairs = [Pair(str(i), "a", "b") for i in range(20)]
    with pytest.raises(ValueError, match=r"401 .*who are you"):
        judge(pairs, chat(server), Answers())
    assert len(server.requests) == 1


def test_a_key_that_is_withdrawn_ends_it_and_keeps_what_was_answered(server, tmp_path):
    gone = Reply(b"no longer", 403)
    server.reply = lambda number, request: completion("VERDICT: 1") if number < 5 else gone
    answers = Answers(tmp_path / "answers.jsonl")
    pairs = [Pair(str(i), "a", "b") for i in range(50)]
    with pytest.raises(ValueError, match="no longer"):
        judge(pairs, chat(server), answers, concurrency=2)
    answers.close()
    assert len(server.requests) < 20
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) >= 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("judge")]


def test_a_rate_limited_endpoint_gets_every_question_answered_in_the_end(server):
    limit = Reply(b"", 429, {"Retry-After": "0.05"})
    server.reply = lambda number, request: limit if number % 3 else longer_wins(number, request)
    judged = judge(PAIRS * 3, chat(server, attempts=20), Answers(), concurrency=3)
    assert [one.preference for one in judged] == [1.0, 0.0, 0.5] * 3


def test_nothing_to_judge_is_refused(server):
    with pytest.raises(ValueError, match="0 pairs"):
        judge([], chat(server), Answers())
    with pytest.raises(ValueError, match="concurrency = 0"):
        judge(PAIRS, chat(server), Answers(), concurrency=0)
