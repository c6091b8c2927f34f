"""A tokenizer for a world of few words: numbers, signs and tags, each one token."""

import os
from collections.abc import Iterable

END = "<|endoftext|>"
UNKNOWN = "<unk>"
# A word takes the space before it along, so that decoding gives the text back.
WORD = r" ?(\d+|</?\w+>|[^\d\s])"


def save_word_tokenizer(texts: Iterable[str], folder: str | os.PathLike[str]) -> None:
    """Writes a tokenizer whose vocabulary is the words of `texts`, in sorted order.

    What it never saw becomes the unknown token. A text ends with `<|endoftext|>`.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Split(Regex(WORD), behavior="isolated")
    words = {word for text in texts for word, _ in split.pre_tokenize_str(text)}
    vocabulary = {word: id for id, word in enumerate([END, UNKNOWN, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = split  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, unk_token=UNKNOWN
    ).save_pretrained(folder)
