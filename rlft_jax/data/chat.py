"""Rows in TRL's formats become ids, with a mark on each that the policy answers for.

A chat is cut into pieces of text: what the policy is given, and what it has to say. Each piece is
encoded by itself, as it is when sampling, so no token spans two of them and the mask follows from
the cut, never from looking for ids.

The policy answers for its words and for ending its turn (`<|im_end|>`), not for the header that
gives it the turn, nor for the newline that Qwen's template writes after it: nobody samples that.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from rlft_jax.batch import Example
from rlft_jax.data.bad_rows import columns_of
from rlft_jax.data.tokenizer import Tokenizer
from rlft_jax.tasks.problem import Message

LossOn = Literal["assistant", "last", "all"]

FORMATS = (
    "`messages` (a chat), `prompt` and `completion` (both text or both chats), or `text`; a task"
    " (config.data.task) makes them from columns of its own"
)


class Piece(NamedTuple):
    """Text that is encoded by itself, and whether the policy has to say it."""

    text: str
    is_response: bool


def encode_example(
    row: Mapping[str, Any], tokenizer: Tokenizer, *, loss_on: LossOn = "assistant"
) -> Example:
    """Encodes one row; see `pieces` for its formats and for `loss_on`."""
    cut = pieces(row, tokenizer, loss_on=loss_on)
    return join(cut, tokenizer.encode_batch([piece.text for piece in cut]))


def pieces(
    row: Mapping[str, Any], tokenizer: Tokenizer, *, loss_on: LossOn = "assistant"
) -> list[Piece]:
    """Cuts a row into what the policy is given and what it has to say.

    Args:
        row: `prompt` and `completion`, `messages` or `text`. A chat may come with `tools` (a list
            of JSON schemas, or the same as a string) and `chat_template_kwargs`.
        tokenizer: Brings the chat template, and the token that ends a text.
        loss_on: "assistant": every turn of the assistant, of the completion where the row has one;
            "last": only the last of these turns; "all": every token.

    Raises:
        ValueError: If the row has another format, or its chat cannot be cut.
    """
    given = {name: value for name, value in row.items() if value is not None}
    match given:
        case {"prompt": str(prompt), "completion": str(completion)}:
            cut = [
                Piece(tokenizer.prefix, False),
                Piece(prompt, False),
                Piece(_ended(completion, tokenizer), True),
            ]
        case {"prompt": [*prompt], "completion": [*completion]}:
            cut = _turns([*prompt, *completion], len(prompt), given, tokenizer, loss_on)
        case {"messages": [*messages]}:
            cut = _turns(messages, 0, given, tokenizer, loss_on)
        case {"text": str(text)}:
            cut = [Piece(tokenizer.prefix, False), Piece(_ended(text, tokenizer), True)]
        case _:
            raise ValueError(f"The columns {columns_of(row)} fit no format. Needed are {FORMATS}.")
    return [Piece(text, True) for text, _ in cut] if loss_on == "all" else cut


def join(cut: Sequence[Piece], ids: Sequence[Sequence[int]]) -> Example:
    """Joins pieces and the ids of each to an example.

    The first token is never the policy's: nothing comes before it that could predict it.
    """
    tokens, is_response = [], []
    for piece, piece_ids in zip(cut, ids, strict=True):
        tokens += piece_ids
        is_response += [piece.is_response] * len(piece_ids)
    is_response[:1] = [False] * len(tokens[:1])
    return Example(np.array(tokens, np.int32), np.array(is_response, bool))


def encode_prompt(
    prompt: str | Sequence[Message],
    tokenizer: Tokenizer,
    *,
    columns: Mapping[str, Any] | None = None,
) -> list[int]:
    """Returns the ids to sample from: of a text, or of a chat with the assistant's header after it.

    Args:
        columns: Of the row; its `tools` and `chat_template_kwargs` are the template's.

    Raises:
        ValueError: If there is nothing to continue, or the assistant spoke last.
    """
    if isinstance(prompt, str):
        ids = tokenizer.prefix_ids + tokenizer.encode(encodable(prompt))
    else:
        prompt = checked_messages(prompt)
        if prompt[-1]["role"] == "assistant":
            raise ValueError(
                "A prompt ends with a turn of the assistant, so nothing is left to answer. Leave"
                " that turn out."
            )
        settings = _template(columns or {})
        text = tokenizer.apply_template(prompt, add_generation_prompt=True, **settings)
        ids = tokenizer.encode(encodable(text))
    if not ids:
        raise ValueError("A prompt is empty, and the tokenizer puts nothing in front of texts.")
    return ids


def encodable(text: str) -> str:
    """Returns a text that tokenizers take.

    Raises:
        ValueError: If it holds half of a character, as the JSON "\\ud800" does.
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start].encode("unicode_escape").decode()
            raise ValueError(
                f"It holds {half}, half of a character, one of the surrogates that no tokenizer"
                " takes. Write all of it, or leave it out."
            ) from error
    return text


def _ended(text: str, tokenizer: Tokenizer) -> str:
    """Text with the token that ends it, unless it has that already."""
    end = tokenizer.eos_token
    if end is None:
        raise ValueError(
            "The row is plain text, but the tokenizer has no eos_token, so that nothing could learn"
            " to stop. Set eos_token in its tokenizer_config.json."
        )
    return text if text.endswith(end) else text + end


def _turns(
    messages: Sequence[Message],
    first: int,
    row: Mapping[str, Any],
    tokenizer: Tokenizer,
    loss_on: LossOn,
) -> list[Piece]:
    """Cuts a chat; the turns of the assistant before message `first` are given.

    What the template makes of a chat up to a turn has to be a prefix of what it makes of the whole
    chat: then the turn is the difference, whatever the template looks like.
    """
    messages = checked_messages(messages)
    settings = _template(row)
    whole = tokenizer.apply_template(messages, **settings)
    turns = [i for i in range(first, len(messages)) if messages[i]["role"] == "assistant"]
    cut, done = [], 0
    for i in turns[-1:] if loss_on == "last" else turns:
        if i == 0:
            raise ValueError(
                "The chat starts with a turn of the assistant, so nothing asks for it."
            )
        head = tokenizer.apply_template(messages[:i], add_generation_prompt=True, **settings)
        is_final = i == len(messages) - 1
        turn = whole if is_final else tokenizer.apply_template(messages[: i + 1], **settings)
        if not (whole.startswith(turn) and turn.startswith(head)):
            raise ValueError(
                f"Message {i} (assistant) cannot be marked: this chat template writes earlier turns"
                " differently once the chat goes on. Train on the last turn only"
                ' (config.data.loss_on = "last"), or give each turn a row of its own.'
            )
        end = len(head) + _turn_end(turn[len(head) :], tokenizer.stop_tokens)
        cut += [Piece(whole[done : len(head)], False), Piece(whole[len(head) : end], True)]
        done = end
    return [*cut, Piece(whole[done:], False)]


def _turn_end(turn: str, stops: Sequence[str]) -> int:
    """Where the last stop token of a turn ends, or the turn where the template writes none."""
    written = turn.rstrip()
    ends_with_stop = any(written.endswith(stop) for stop in stops)
    return len(written) if ends_with_stop else len(turn)


def _template(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row brings for the chat template besides its messages."""
    tools = row.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise ValueError(f"`tools` is text but not JSON: {error}.") from error
    if tools is not None and not isinstance(tools, list | tuple):
        raise ValueError(f"`tools` is of type {type(tools).__name__}; a list of schemas is needed.")
    return {**(row.get("chat_template_kwargs") or {}), "tools": tools or None}


def checked_messages(messages: Sequence[Message]) -> list[Message]:
    """Messages without the Nones that Arrow puts where only others have a key.

    Refuses what a template would stumble over without saying where.
    """
    if not messages:
        raise ValueError("A chat has no messages.")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(
                f"Message {i} is {repr(message)[:80]}; it needs a `role` and a `content`."
            )
        if message.get("content") is None and not message.get("tool_calls"):
            raise ValueError(f"Message {i} ({message['role']}) has no `content`.")
    return [
        {key: value for key, value in message.items() if value is not None or key == "content"}
        for message in messages
    ]
