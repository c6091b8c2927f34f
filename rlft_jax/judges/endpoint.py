"""Asks any OpenAI-compatible chat endpoint, patiently: rate limits, failures and hangs are met by
asking again, with growing pauses, and what stays unanswered is an error of its own kind.
"""

import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlft_jax.tasks.problem import Message

LARGEST_REPLY = 1 << 22  # bytes; a verdict has a few hundred

# Asking again may help after these and after all of 500 and above; after the others it does not.
_PASSING = frozenset({408, 409, 425, 429})
# These are about the address, the model's name or the key, so no question would fare better.
_ABOUT_THE_SETUP = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405})


class NoAnswerError(Exception):
    """One question stays without an answer; others may fare better."""


class _PassingError(Exception):
    """Asking again may help.

    Attributes:
        wait_seconds: How long the endpoint asks to be left alone.
    """

    def __init__(self, reason: str, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, whom, and how patiently.

    Attributes:
        url: The address up to `/chat/completions`, as "http://localhost:8000/v1".
        model: The model's name there.
        key_variable: Name of the environment variable that holds the key; None where none is
            needed. The key itself is never stored or shown.
        settings: Further fields of each request. They are part of what makes an answer a
            different one.
        timeout_seconds: For one try, from the question to the last byte of the answer.
        attempts: Tries for a question, the first included.
        first_wait_seconds: The longest pause after the first try; each next one is up to twice
            as long.
        longest_wait_seconds: No pause is longer, whatever the endpoint asks for.
    """

    url: str
    model: str
    key_variable: str | None = None
    settings: Mapping[str, Any] = field(
        default_factory=lambda: {"temperature": 0, "max_tokens": 512}
    )
    timeout_seconds: float | int = 120.0
    attempts: int = 6
    first_wait_seconds: float | int = 1.0
    longest_wait_seconds: float | int = 60.0

    def __post_init__(self) -> None:
        """Raises ValueError if nothing can be asked this way."""
        address = urllib.parse.urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.netloc:
            raise ValueError(
                f"{self.url!r} is no address of a chat endpoint. Give one that starts with http://"
                " or https://, as http://localhost:8000/v1."
            )
        if self.attempts < 1 or self.timeout_seconds <= 0:
            raise ValueError(
                f"attempts = {self.attempts} and timeout_seconds = {self.timeout_seconds} leave no"
                " time for an answer. Set at least one attempt and a time above 0."
            )


class Chat:
    """Answers of an endpoint to messages; safe to call from many threads.

    Raises:
        ValueError: If the endpoint needs a key and its variable is not set.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._url = endpoint.url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self._key = _key(endpoint.key_variable)
        # A redirect would take the key to an address that nobody named.
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._stopped = threading.Event()

    def __call__(self, messages: Sequence[Message]) -> str:
        """The text of the endpoint's answer; "" if it gives one without text.

        Raises:
            NoAnswerError: If there is none after all attempts, or the question is refused.
            ValueError: If no question can be answered: wrong address, model name or key.
        """
        body = {"model": self.endpoint.model, "messages": list(messages), **self.endpoint.settings}
        encoded = json.dumps(body).encode()
        for attempt in range(1, self.endpoint.attempts + 1):
            try:
                return _content(self._post(encoded))
            except _PassingError as problem:
                last = attempt == self.endpoint.attempts
                if last or self._stopped.wait(self._pause(attempt, problem.wait_seconds)):
                    raise NoAnswerError(f"{problem} ({attempt} attempts)") from problem
        raise AssertionError("the last attempt returns or raises")

    def stop(self) -> None:
        """Ends all pauses, for good: no question is asked a second time."""
        self._stopped.set()

    def _pause(self, attempt: int, asked_for: float) -> float:
        """Seconds to wait after an attempt; at random, so that threads do not return as one."""
        grown = self.endpoint.first_wait_seconds * 2.0 ** (attempt - 1)
        return min(asked_for + random.uniform(0.5, 1) * grown, self.endpoint.longest_wait_seconds)

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "User-Agent": "rlft_jax"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url, data=body, headers=headers)
        timeout = self.endpoint.timeout_seconds
        deadline = time.monotonic() + timeout
        try:
            with self._opener.open(request, timeout=timeout) as reply:
                return _read(reply, deadline)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from error
        except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
            raise _PassingError(f"{type(error).__name__}: {error}") from error

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        """What a status that is no success means for this question and the others."""
        try:
            said = error.read(500).decode(errors="replace").strip()
        except (OSError, http.client.HTTPException):
            said = ""
        said = f"HTTP {error.code} {error.reason}: {said}"
        if self._key:
            said = said.replace(self._key, "***")
        if error.code in _PASSING or error.code >= 500:
            return _PassingError(said, _seconds(error.headers.get("Retry-After")))
        if error.code in _ABOUT_THE_SETUP:
            variable = self.endpoint.key_variable
            return ValueError(
                f"{self._url} does not answer for model {self.endpoint.model!r}: {said}. Check the"
                " address, the name of the model, and"
                + (f" the key in {variable}." if variable else " whether a key is needed.")
            )
        return NoAnswerError(said)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any):
        """Follows nothing, so that a redirect is an error like any other."""
        return


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ValueError(
            f"The environment variable {variable} holds no key for the endpoint: it is unset, empty"
            " or not plain text. Export it, or name another variable."
        )
    return key


def _read(reply: Any, deadline: float) -> bytes:
    """All of a reply, unless it is too large or comes too slowly: a socket's own timeout does not
    end a reply that drips."""
    parts, size = [], 0
    while part := reply.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > LARGEST_REPLY:
            raise _PassingError(f"a reply of more than {LARGEST_REPLY:,} bytes")
        if time.monotonic() > deadline:
            raise _PassingError("the reply did not end in time")
    return b"".join(parts)


def _content(reply: bytes) -> str:
    try:
        content = json.loads(reply)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise _PassingError(f"a reply that is no chat completion: {reply[:80]!r}") from error
    return content if isinstance(content, str) else ""


def _seconds(retry_after: str | None) -> float:
    """The seconds that a Retry-After header asks for; 0 without one, or for a date."""
    try:
        seconds = float(retry_after or 0)
    except ValueError:
        return 0.0
    return seconds if 0 < seconds < float("inf") else 0.0
