"""What a reward model reads: a prompt and a response, as one text of its own tokens.

One `Formatter` makes the inputs of training, evaluation, rollouts and best-of-N, so a model is
scored on what it was trained on. The tokenizer's own special tokens, such as [CLS] and [SEP], are
always there.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from rlft_jax.data.chat import checked_messages
from rlft_jax.data.tokenizer import Tokenizer
from rlft_jax.tasks.problem import Message
from rlft_jax.texts import Text

Preset = Literal["chat", "plain", "pair"]
TooLong = Literal["drop", "cut"]
# A prompt and a response; plain text is the one turn of the user, or of the assistant.
Answered: TypeAlias = tuple[str | Sequence[Message], str | Sequence[Message]]
Turns: TypeAlias = list[Message]

# What Qwen's base models assume where a chat has no system turn.
SYSTEM = "You are a helpful assistant."


class Formatted(NamedTuple):
    """What became of a prompt and a response.

    Attributes:
        text: What the model reads; None if it is too long, and cutting did not help or was not
            asked for.
        length: Tokens before anything was cut.
    """

    text: Text | None
    length: int

    @property
    def is_cut(self) -> bool:
        """Whether the text has lost some of its prompt."""
        return self.text is not None and len(self.text.tokens) < self.length


@dataclasses.dataclass(frozen=True)
class Formatter:
    """Makes the input of a reward model, always in the same way.

    Attributes:
        tokenizer: The reward model's own.
        preset: "chat": the tokenizer's chat template. "plain": every turn under the name of its
            role, a system turn first, as the template of Qwen without its special tokens.
            "pair": prompt and response as two segments, [CLS] prompt [SEP] response [SEP].
        tokens: The most that a text may have, special tokens included.
        too_long: "drop" longer texts, or "cut" their prompts: the oldest exchanges go first, then
            the start of the oldest turn that is left, never the system's. The response stays
            whole; if it does not fit alone, the text is dropped.

    Raises:
        ValueError: If the tokenizer cannot do what the preset needs, or nothing would fit.
    """

    tokenizer: Tokenizer = dataclasses.field(repr=False)
    preset: Preset
    tokens: int
    too_long: TooLong = "cut"

    def __post_init__(self) -> None:
        problems = []
        if self.preset not in get_args(Preset):
            problems.append(f"preset = {self.preset!r} is none of {', '.join(get_args(Preset))}.")
        if self.too_long not in get_args(TooLong):
            problems.append(f"too_long = {self.too_long!r} is none of drop, cut.")
        if self.preset == "chat" and self.tokenizer.chat_template is None:
            problems.append(
                "preset = 'chat' needs a chat template, and the reward model's tokenizer has none."
                f" Set {default_preset(self.tokenizer)!r}."
            )
        if self.preset == "pair" and not self.tokenizer.separates_pairs:
            problems.append(
                "preset = 'pair' needs a tokenizer that puts a token between two texts, which the"
                f" reward model's does not. Set {default_preset(self.tokenizer)!r}."
            )
        if problems:
            raise ValueError("Texts cannot be formatted:\n" + "\n".join(problems))
        shortest = len(self._encoded([([_turn("user", "")], [_turn("assistant", "")])])[0].tokens)
        if self.tokens <= shortest:
            raise ValueError(
                f"tokens = {self.tokens} leaves no room for a response: preset = {self.preset!r}"
                f" puts {shortest} tokens around it. Raise it."
            )

    def formatted(self, answered: Sequence[Answered]) -> list[Formatted]:
        """Returns what becomes of prompts with their responses.

        Raises:
            ValueError: If one of them cannot be written in this form.
        """
        turns = [(_turns("user", prompt), _turns("assistant", text)) for prompt, text in answered]
        made = []
        for one, text in zip(turns, self._encoded(turns), strict=True):
            length = len(text.tokens)
            if length <= self.tokens:
                made.append(Formatted(text, length))
            else:
                made.append(Formatted(self._cut(*one) if self.too_long == "cut" else None, length))
        return made

    def texts(self, answered: Sequence[Answered]) -> list[Text]:
        """Returns what a model reads to score prompts with their responses.

        Raises:
            ValueError: If a text is too long: a response without a score could not be ranked.
        """
        made = self.formatted(answered)
        over = [(i, one.length) for i, one in enumerate(made) if one.text is None]
        if over:
            shown = ", ".join(f"response {i} ({length} tokens)" for i, length in over[:5])
            reason = (
                "even with its whole prompt cut off"
                if self.too_long == "cut"
                else "and too_long = 'drop' cuts nothing"
            )
            raise ValueError(
                f"{len(over)} of {len(made)} texts do not fit into the {self.tokens} tokens that"
                f" the reward model reads, {reason}: {shown}. Allow shorter responses, or use a"
                " reward model that reads more."
            )
        return [one.text for one in made if one.text is not None]

    @property
    def description(self) -> dict[str, Any]:
        """All that the texts depend on, for JSON; the tokenizer by its fingerprint."""
        settings = {"preset": self.preset, "tokens": self.tokens, "too_long": self.too_long}
        return {**settings, "tokenizer": self.tokenizer.fingerprint}

    @property
    def fingerprint(self) -> str:
        """A digest that is equal only where all prompts and responses give the same texts."""
        written = json.dumps(self.description, sort_keys=True)
        return hashlib.sha256(written.encode()).hexdigest()[:16]

    def _encoded(self, answered: Sequence[tuple[Turns, Turns]]) -> list[Text]:
        """Texts of any length."""
        is_chat, end = self.preset == "chat", self.tokenizer.eos_id
        written = [_FORMS[self.preset](self.tokenizer, *one) for one in answered]
        for text in written:
            "".join(text).encode()  # raises on half a surrogate pair, which no tokenizer takes
        # A template writes all special tokens itself. Other texts need an end, which decoders read
        # the score at.
        is_open = not (is_chat or end is None or self.tokenizer.ends_texts)
        made = []
        for ids, types in self.tokenizer.encode_inputs(written, add_special_tokens=not is_chat):
            if is_open and ids[-1:] != [end]:
                ids, types = [*ids, end], [*types, *(types[-1:] or [0])]
            made.append(Text(np.array(ids, np.int32), np.array(types, np.int32)))
        return made

    def _cut(self, prompt: Turns, response: Turns) -> Text | None:
        """A text with as much of its prompt as fits; None if not even the response does."""
        encoded = lambda turns: self._encoded([(turns, response)])[0]
        text = encoded(prompt)
        while len(text.tokens) > self.tokens and (later := _without_oldest_exchange(prompt)):
            prompt, text = later, encoded(later)
        first = next((i for i, turn in enumerate(prompt) if turn["role"] != "system"), None)
        if first is None or not isinstance(whole := prompt[first].get("content"), str):
            return text if len(text.tokens) <= self.tokens else None
        rest, missing = whole, 0
        while (over := len(text.tokens) - self.tokens) > 0:
            if not rest:
                return None
            # A token may count differently in its text than alone, so this can take several cuts.
            missing += over
            rest = self.tokenizer.without_start(whole, missing)
            text = encoded(
                [*prompt[:first], prompt[first] | {"content": rest}, *prompt[first + 1 :]]
            )
        return text


def default_preset(tokenizer: Tokenizer) -> Preset:
    """The form that a reward model with this tokenizer most likely knows.

    A chat template where there is one (decoders), else two segments where the tokenizer separates
    them (encoders), else plain text.
    """
    if tokenizer.chat_template is not None:
        return "chat"
    return "pair" if tokenizer.separates_pairs else "plain"


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _turns(role: str, given: str | Sequence[Message]) -> Turns:
    """A chat; of plain text, one turn."""
    return [_turn(role, given)] if isinstance(given, str) else checked_messages(given)


def _without_oldest_exchange(turns: Turns) -> Turns | None:
    """A chat from the second turn of the user on, its system turn kept; None if there is none."""
    users = [i for i, turn in enumerate(turns) if turn["role"] == "user"]
    if len(users) < 2:
        return None
    return [turn for turn in turns[: users[0]] if turn["role"] == "system"] + turns[users[1] :]


def _chat(tokenizer: Tokenizer, prompt: Turns, response: Turns) -> str:
    return tokenizer.apply_template([*prompt, *response])


def _plain(tokenizer: Tokenizer, prompt: Turns, response: Turns) -> str:
    has_system = prompt[0]["role"] == "system"
    return _named([*([] if has_system else [_turn("system", SYSTEM)]), *prompt, *response])


def _pair(tokenizer: Tokenizer, prompt: Turns, response: Turns) -> tuple[str, str]:
    one = lambda turns: _content(turns[0]) if len(turns) == 1 else _named(turns)
    return one(prompt), one(response)


_FORMS: dict[str, Callable[[Tokenizer, Turns, Turns], str | tuple[str, str]]] = {
    "chat": _chat,
    "plain": _plain,
    "pair": _pair,
}


def _named(turns: Turns) -> str:
    """All turns, each under the name of its role."""
    return "\n".join(f"{turn['role']}\n{_content(turn)}" for turn in turns)


def _content(turn: Message) -> str:
    if not isinstance(turn.get("content"), str):
        raise ValueError(
            f"A turn ({turn['role']}) holds {repr(turn.get('content'))[:80]}. Only text can be"
            " written without a chat template; set preset = 'chat', or leave the row out."
        )
    return turn["content"]
