"""A fast Hugging Face tokenizer, with what training and sampling ask of one and nothing else."""

import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

# transformers tells everybody without torch, at every import, that models won't be available.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

import jinja2
import transformers

from rlft_jax.tasks.problem import Message

# Base models end texts with the one and instruction-tuned ones their turns with the other; a
# fine-tuned model can use either, so both stop where the vocabulary has them.
CHAT_STOPS = ("<|im_end|>", "<|endoftext|>")

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back, and chats to text.

    Special tokens written in a text are parsed, as everywhere at Hugging Face: text from strangers
    can hold `<|im_end|>`.
    """

    hf: transformers.PreTrainedTokenizerBase = dataclasses.field(repr=False)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`, with nothing added in front or behind."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns what `encode` returns for each text, on all cores."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_inputs(
        self, texts: Sequence[str | tuple[str, str]], *, add_special_tokens: bool
    ) -> list[tuple[list[int], list[int]]]:
        """Returns the ids of texts or pairs of texts, and the number of the segment of each id.

        Args:
            texts: Whole inputs of an encoder or a reward model.
            add_special_tokens: Whether the tokenizer's own go around them, like [CLS] and [SEP].
        """
        encodings = self._backend.encode_batch_fast(
            list(texts), add_special_tokens=add_special_tokens
        )
        return [(encoding.ids, encoding.type_ids) for encoding in encodings]

    def without_start(self, text: str, tokens: int) -> str:
        """Returns what is left of `text` when its first tokens are cut off."""
        offsets = self._backend.encode(text, add_special_tokens=False).offsets
        return text[offsets[tokens][0] :] if tokens < len(offsets) else ""

    def decode(self, ids: Iterable[SupportsIndex], *, skip_special_tokens: bool = False) -> str:
        """Returns the text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return self._backend.decode(
            [int(id) for id in ids], skip_special_tokens=skip_special_tokens
        )

    def id_of(self, token: str) -> int | None:
        """Returns the id of one token, or None if the vocabulary has no such token."""
        return self._backend.token_to_id(token)

    def apply_template(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
        **settings: Any,
    ) -> str:
        """Returns a chat as text, rendered by transformers in its sandbox.

        Args:
            messages: The turns.
            add_generation_prompt: Whether the header of an assistant's turn follows.
            tools: JSON schemas of the functions that the assistant may call.
            settings: What else the template asks for, like `enable_thinking`.

        Raises:
            ValueError: If there is no template, or it refuses the messages.
        """
        if self.hf.chat_template is None:
            raise ValueError(
                "The tokenizer has no chat template, so messages cannot become text. Put a"
                " chat_template.jinja beside it, or use rows of plain text."
            )
        try:
            text = self.hf.apply_chat_template(
                [*messages],
                tools=[*tools] if tools else None,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
                **settings,
            )
        except (jinja2.TemplateError, TypeError, OverflowError) as error:
            raise ValueError(f"The chat template refuses these messages: {error}.") from error
        assert isinstance(text, str)
        return text

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the files that `save_pretrained` writes, the chat template among them."""
        self.hf.save_pretrained(os.fspath(folder))

    @property
    def eos_token(self) -> str | None:
        """The token that ends a text."""
        return None if self.hf.eos_token is None else str(self.hf.eos_token)

    @property
    def eos_id(self) -> int | None:
        """The id that ends a text."""
        return None if self.eos_token is None else self.id_of(self.eos_token)

    @property
    def pad_id(self) -> int:
        """The id to pad with. It may end texts too, so masks come from lengths, not from it."""
        pad = self.hf.pad_token
        candidates = (None if pad is None else self.id_of(str(pad)), self.eos_id, 0)
        return next(id for id in candidates if id is not None)

    @functools.cached_property
    def prefix_ids(self) -> list[int]:
        """What goes in front of every plain text, like <s> for Llama; nothing for Qwen."""
        encoding = self._backend.encode("a")
        pairs = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
        return [id for id, _ in itertools.takewhile(lambda pair: pair[1], pairs)]

    @property
    def prefix(self) -> str:
        """The text of `prefix_ids`."""
        return "".join(map(self._backend.id_to_token, self.prefix_ids))

    @functools.cached_property
    def ends_texts(self) -> bool:
        """Whether the tokenizer puts a special token behind every text, like [SEP] for BERT."""
        return bool(self._backend.encode("a").special_tokens_mask[-1])

    @functools.cached_property
    def separates_pairs(self) -> bool:
        """Whether the tokenizer puts a special token between two texts, like [SEP] for BERT."""
        segments = self._backend.encode("a", "b").sequence_ids
        return None in segments[segments.index(0) : segments.index(1)]

    @functools.cached_property
    def stop_tokens(self) -> list[str]:
        """The texts of `stop_ids` without a generation config."""
        return [self._backend.id_to_token(id) for id in stop_ids(self)]

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included; the model's embedding may have more rows."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def chat_template(self) -> str | None:
        """The Jinja text of the template, if there is one; of several, the default one."""
        return None if self.hf.chat_template is None else self.hf.get_chat_template()

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest that is equal only where all texts and chats give the same ids."""
        parts = (self._backend.to_str(), self.chat_template, self.eos_id, self.pad_id)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    @functools.cached_property
    def _backend(self) -> Any:
        backend: Any = self.hf.backend_tokenizer
        # Some files bake these in; the length of a text is not the tokenizer's business.
        backend.no_truncation()
        backend.no_padding()
        return backend


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Returns the fast tokenizer of a folder or a hub name; remote code is never run.

    Raises:
        ValueError: If there is none, it has no vocabulary, or only a slow one exists.
    """
    name = os.fspath(path)
    is_local = bool(name) and pathlib.Path(name).exists()
    if not is_local and not HUB_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a folder here, nor can it be a hub name.")
    try:
        hf = transformers.AutoTokenizer.from_pretrained(
            name, use_fast=True, trust_remote_code=False, local_files_only=is_local
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"The tokenizer of {name!r} cannot be loaded: {error}") from error
    if not hf.is_fast:
        raise ValueError(
            f"{name!r} has only a slow tokenizer ({type(hf).__name__}). Convert it: a"
            " tokenizer.json is needed."
        )
    # From a folder with a config alone, transformers makes a tokenizer that knows no words.
    if len(hf.get_vocab()) <= len(hf.get_added_vocab()):
        raise ValueError(
            f"{name!r} holds no vocabulary: neither a tokenizer.json nor a vocab.json with its"
            " merges.txt was found there. Put the model's tokenizer there."
        )
    return Tokenizer(hf)


def stop_ids(
    tokenizer: Tokenizer, generation_config: Mapping[str, Any] | None = None
) -> tuple[int, ...]:
    """Returns every id that ends a response, the tokenizer's own end first.

    They are the tokenizer's end, those of `generation_config["eos_token_id"]` (one or a list), and
    the ends of texts and of turns that Qwen models use, where the vocabulary has them.
    """
    listed = (generation_config or {}).get("eos_token_id")
    listed = [listed] if isinstance(listed, int) else listed or []
    ends = [tokenizer.eos_id, *listed, *map(tokenizer.id_of, CHAT_STOPS)]
    return tuple(dict.fromkeys(id for id in ends if id is not None))
