"""Tokenizers of encoders: words in pieces as for BERT, and SentencePiece as for DeBERTa-v3."""

import json
from collections.abc import Iterable
from pathlib import Path

import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from rlft_jax.data.tokenizer import Tokenizer, load_tokenizer

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]


def wordpiece(words: Iterable[str], folder: Path) -> Tokenizer:
    """A BERT tokenizer that knows these words and all letters."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?"
    vocabulary = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *words]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)) + "\n")
    return Tokenizer(transformers.BertTokenizerFast.from_pretrained(folder))


def unigram(texts: Iterable[str], folder: Path) -> Tokenizer:
    """A SentencePiece Unigram tokenizer of DeBERTa-v3's kind, learnt from texts and saved."""
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    scores = [(piece, score) for piece, score in json.loads(backend.to_str())["model"]["vocab"]]
    transformers.DebertaV2TokenizerFast(vocab=scores).save_pretrained(folder)
    return load_tokenizer(folder)
