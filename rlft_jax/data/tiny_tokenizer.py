"""A tokenizer of Qwen's kind, learned from a few texts."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

END = "<|endoftext|>"
# transformers gives every Qwen2 model this split, whatever its tokenizer.json says.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def save_tiny_tokenizer(
    texts: Iterable[str], folder: str | os.PathLike[str], *, size: int, words: Sequence[str] = ()
) -> None:
    """Learns a byte-level BPE and writes it; texts end with `END`.

    Args:
        size: The most tokens, besides `words`.
        words: Texts that are one token wherever they stand, such as numbers that Qwen's split
            would take apart.
    """
    from transformers import Qwen2Tokenizer  # is slow to import

    tokenizer = qwen_tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    # Qwen's own files have no unknown token either, which transformers' annotations forget.
    special: dict[str, Any] = {"eos_token": END, "pad_token": END, "unk_token": None}
    Qwen2Tokenizer(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def qwen_tokenizer(pieces: models.BPE) -> Tokenizer:
    """Returns a tokenizer that prepares and splits texts as Qwen's does, whatever its pieces."""
    tokenizer: Any = Tokenizer(pieces)  # its stubs do not know that these can be set
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
