"""Folders of tiny reward models, for runs and commands."""

from collections.abc import Sequence
from pathlib import Path

from rlft_jax.data.formatter_file import save_formatter
from rlft_jax.data.formatting import Formatter, Preset
from rlft_jax.models import deberta, distilbert, reward
from tests.data.encoder_tokenizers import wordpiece
from tests.models.reward_models import random_params

DISTILBERT = distilbert.Architecture(
    vocabulary=96, width=16, layers=1, heads=2, feed_forward=32, max_positions=256
)
DEBERTA = deberta.Architecture(
    vocabulary=96,
    width=16,
    layers=1,
    heads=2,
    feed_forward=32,
    max_positions=512,
    max_distance=512,
    buckets=16,
)


def write_encoder(
    folder: Path,
    architecture: reward.Architecture = DISTILBERT,
    *,
    words: Sequence[str] = ("yes", "no", "way", "question"),
    preset: Preset | None = None,
    tokens: int = 48,
) -> Path:
    """A Hugging Face folder of a random encoder that knows letters, digits and a few words.

    Args:
        preset: With one, it has a formatter of so many tokens; else it is as somebody else's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = wordpiece(words, folder)
    tokenizer.save(folder)
    reward.save(folder, random_params(architecture), architecture)
    if preset is not None:
        save_formatter(Formatter(tokenizer, preset, tokens), folder)
    return folder
