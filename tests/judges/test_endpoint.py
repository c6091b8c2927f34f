import threading
import time

import pytest

from rlft_jax.judges import endpoint
from rlft_jax.judges.endpoint import Chat, Endpoint, NoAnswerError
from tests.judges.conftest import Reply, completion

MESSAGES = [{"role": "user", "content": "Hi"}]


def chat(server, **settings):
    quick = {"timeout_seconds": 5, "attempts": 4, "first_wait_seconds": 0.01}
    return Chat(Endpoint(server.url, "judge", **(quick | settings)))


def test_a_question_reaches_the_endpoint_as_openai_defines_it(server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", " sk-123\n")
    server.reply = lambda number, request: completion("Hello")
    ask = chat(server, key_variable="SOME_KEY", settings={"temperature": 0.5, "seed": 1})
    assert ask(MESSAGES) == "Hello"
    assert server.requests == [
        {"model": "judge", "messages": MESSAGES, "temperature": 0.5, "seed": 1}
    ]
    path, headers = server.headers[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer sk-123"
    assert headers["Content-Type"] == "application/json"


def test_no_key_is_sent_where_none_is_named_and_the_full_address_does_as_well(server):
    ask = Chat(Endpoint(f"{server.url}/chat/completions/", "judge"))
    assert ask(MESSAGES) == "VERDICT: TIE"
    path, headers = server.headers[0]
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers


@pytest.mark.parametrize(
    "trouble",
    [
        Reply(b"slow down", 429),
        Reply(b"slow down", 429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        Reply(b"oh", 500),
        Reply(b"", 503),
        Reply(b"<html>busy</html>"),
        Reply(b'{"choices": []}'),
        Reply(b'{"error": "overloaded"}'),
        Reply(b"[" * 100_000),
        Reply(b'{"choi', headers={"Content-Length": "500"}),
        Reply(b"x" * 3_000_000),
    ],
    ids=lambda reply: f"{reply.status} {reply.body[:12]!r}",
)
def test_passing_trouble_is_met_by_asking_again(server, trouble):
    server.reply = lambda number, request: trouble if number < 3 else completion("Hello")
    assert chat(server)(MESSAGES) == "Hello"
    assert len(server.requests) == 3


def test_trouble_that_does_not_pass_is_an_error_after_all_attempts(server):
    server.reply = lambda number, request: Reply(b"overloaded", 503)
    with pytest.raises(NoAnswerError, match=r"HTTP 503 .*overloaded \(4 attempts\)"):
        chat(server)(MESSAGES)
    assert len(server.requests) == 4


def test_retry_after_is_waited_for_up_to_the_longest_wait(server):
    limit = Reply(b"", 429, {"Retry-After": "0.5"})
    server.reply = lambda number, request: limit if number < 2 else completion("Hello")
    start = time.monotonic()
    chat(server)(MESSAGES)
    assert time.monotonic() - start > 0.5

    far = Reply(b"", 429, {"Retry-After": "86400"})
    server.reply = lambda number, request: far if number < 5 else completion("Hello")
    start = time.monotonic()
    chat(server, longest_wait_seconds=0.05)(MESSAGES)
    assert time.monotonic() - start < 5


def test_waits_double_with_jitter_and_are_bounded():
    ask = Chat(Endpoint("http://nowhere/v1", "judge", longest_wait_seconds=10.0))
    waits = [[ask._pause(attempt, 0.0) for _ in range(50)] for attempt in range(1, 7)]
    for attempt, drawn in enumerate(waits):
        assert max(drawn) <= min(2.0**attempt, 10)
        assert min(drawn) >= min(2.0**attempt / 2, 10)
    assert len(set(waits[0])) > 1
    assert ask._pause(1, 5.0) > 5
    assert ask._pause(2000 // 2, 0.0) == 10


@pytest.mark.parametrize(
    "silence", [Reply(b"", hang=30), Reply(b" " * 300, drip=0.05)], ids=["hangs", "drips"]
)
def test_an_endpoint_that_hangs_or_drips_times_out(server, silence):
    server.reply = lambda number, request: silence
    start = time.monotonic()
    with pytest.raises(NoAnswerError, match=r"time.*\(2 attempts\)"):
        chat(server, timeout_seconds=0.3, attempts=2)(MESSAGES)
    assert time.monotonic() - start < 5


def test_an_endless_reply_is_cut_off(server, monkeypatch):
    monkeypatch.setattr(endpoint, "LARGEST_REPLY", 1000)
    server.reply = lambda number, request: Reply(b"x" * 100_000)
    with pytest.raises(NoAnswerError, match="more than 1,000 bytes"):
        chat(server, attempts=1)(MESSAGES)


def test_a_server_that_is_not_there_is_an_error_after_all_attempts(server):
    gone = Chat(Endpoint("http://127.0.0.1:9/v1", "judge", attempts=2, first_wait_seconds=0.01))
    with pytest.raises(NoAnswerError, match=r"refused.*\(2 attempts\)"):
        gone(MESSAGES)


def test_a_question_that_is_refused_is_not_asked_again(server):
    server.reply = lambda number, request: Reply(b"context length exceeded", 400)
    with pytest.raises(NoAnswerError, match=r"HTTP 400 .*context length exceeded"):
        chat(server)(MESSAGES)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_ends_everything_without_showing_the_key(
    server, monkeypatch, status
):
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    server.reply = lambda number, request: Reply(b"sk-secret is no key", status)
    ask = chat(server, key_variable="SOME_KEY")
    with pytest.raises(ValueError, match=r"model 'judge'.*key in SOME_KEY") as caught:
        ask(MESSAGES)
    assert "sk-secret" not in str(caught.value)
    assert "sk-secret" not in repr(vars(ask.endpoint))
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_does_not_follow_a_redirect(server, monkeypatch, status):
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    there = {"Location": f"{server.url}/elsewhere"}
    server.reply = lambda number, request: Reply(b"", status, there)
    with pytest.raises(ValueError, match=f"HTTP {status}"):
        chat(server, key_variable="SOME_KEY")(MESSAGES)
    assert len(server.requests) == 1


@pytest.mark.parametrize("value", [None, "", "  ", "sk-\x00", "sk-\nX-Evil: 1", "schlüssel"])
def test_an_unusable_key_is_refused_without_being_shown(monkeypatch, value):
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None and "\x00" not in value:
        monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(ValueError, match="SOME_KEY holds no key") as caught:
        Chat(Endpoint("http://localhost/v1", "judge", "SOME_KEY"))
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "localhost:8000/v1", "", "ftp://a/b", "http://"]
)
def test_only_web_addresses_are_asked(url):
    with pytest.raises(ValueError, match="is no address of a chat endpoint"):
        Endpoint(url, "judge")


def test_settings_that_leave_no_time_are_refused():
    with pytest.raises(ValueError, match="attempts = 0"):
        Endpoint("http://localhost/v1", "judge", attempts=0)
    with pytest.raises(ValueError, match="timeout_seconds = 0"):
        Endpoint("http://localhost/v1", "judge", timeout_seconds=0)


def test_an_answer_without_text_is_an_empty_one(server):
    server.reply = lambda number, request: completion(None)
    assert chat(server)(MESSAGES) == ""


def test_stop_ends_a_pause(server):
    server.reply = lambda number, request: Reply(b"", 429, {"Retry-After": "50"})
    ask = chat(server)
    threading.Timer(0.3, ask.stop).start()
    start = time.monotonic()
    with pytest.raises(NoAnswerError, match=r"\(1 attempts\)"):
        ask(MESSAGES)
    assert time.monotonic() - start < 10
