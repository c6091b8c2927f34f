"""A tokenizer of Qwen's kind, learned from a few texts."""

import os
from collections.abc import Iterable, Sequence

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
    from transformers import Qwen2TokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    Qwen2TokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, unk_token=None
    ).save_pretrained(folder)
