"""How much arithmetic and memory traffic the work itself asks for, however it is done.

Formulas of a Qwen2, with Nb parameters in the matrices of all layers, Nh = V x D in the head, L
layers, N query heads, K key/value heads of width H, for a text of T tokens:

- forward: 2 Nb T + 2 Nh S + 2 L N H T^2 FLOPs. S counts the tokens that are scored. Attention is
  causal and counted once: a token attends to T / 2 others on average, 4 N H FLOPs for each. Of a
  text that leaves its first P tokens to another one, T - P are read, and T^2 becomes T^2 - P^2.
- training: three times the forward pass; twice, where adapters train and the base gets no
  gradients. What is computed again to save memory does not count.
- decode: a step reads all weights once, and the keys and values of every row.

Norms, softmax, rotary embeddings and the optimizer are left out, as is usual.
"""

from collections.abc import Sequence
from typing import NamedTuple

from rlft_jax.models.qwen2 import Architecture
from rlft_jax.sampling.cache import CacheDtype, token_bytes


class MatrixParameters(NamedTuple):
    """Parameters that multiply activations.

    Attributes:
        body: Of all layers.
        head: Of the head, which may be the embedding used the other way round.
    """

    body: int
    head: int


def matrix_parameters(a: Architecture) -> MatrixParameters:
    """Counts the parameters of matrices; biases, norms and the embedding's lookup do not multiply.

    >>> matrix_parameters(QWEN2_5_0_5B)
    MatrixParameters(body=357826560, head=136134656)
    """
    q, kv = a.heads * a.head_width, a.kv_heads * a.head_width
    layer = 2 * a.width * q + 2 * a.width * kv + 3 * a.width * a.feed_forward
    return MatrixParameters(a.layers * layer, a.vocabulary * a.width)


def forward(
    a: Architecture,
    lengths: Sequence[int],
    *,
    skipped: Sequence[int] = (),
    scored: int | None = None,
) -> int:
    """FLOPs of reading texts of these lengths.

    Args:
        a: Sizes of the model.
        lengths: Tokens of each text; packed texts do not see each other.
        skipped: Leading tokens of each text that another one reads for it; none if empty.
        scored: Tokens whose logits are needed; all if None.
    """
    tokens = sum(lengths) - sum(skipped)
    body, head = matrix_parameters(a)
    pairs = sum(length**2 for length in lengths) - sum(length**2 for length in skipped)
    attention = 2 * a.layers * a.heads * a.head_width * pairs
    return 2 * body * tokens + 2 * head * (tokens if scored is None else scored) + attention


def train(
    a: Architecture,
    lengths: Sequence[int],
    *,
    skipped: Sequence[int] = (),
    scored: int | None = None,
    has_adapters: bool = False,
) -> int:
    """FLOPs of a training step on texts of these lengths."""
    once = forward(a, lengths, skipped=skipped, scored=scored)
    return (2 if has_adapters else 3) * once


def generation(a: Architecture, prompts: Sequence[int], new: Sequence[Sequence[int]]) -> int:
    """FLOPs of reading prompts of these lengths, each once, and writing so many tokens to each."""
    body, head = matrix_parameters(a)
    total = forward(a, prompts, scored=0)  # the head reads for each new token once, as below
    for prompt, counts in zip(prompts, new, strict=True):
        for count in counts:
            seen = count * prompt + count * (count + 1) // 2
            total += 2 * (body + head) * count + 4 * a.layers * a.heads * a.head_width * seen
    return total


def decode_bytes(
    a: Architecture,
    *,
    rows: int,
    context: int | float,
    width: int,
    cache_dtype: CacheDtype | None = None,
) -> float:
    """Bytes that one decode step has to read: weights, keys and values.

    Args:
        a: Sizes of the model.
        rows: Completions that are written at once.
        context: Tokens that a row attends to.
        width: Bytes of a number.
        cache_dtype: What keys and values are kept in, if not in such numbers.
    """
    weights = sum(matrix_parameters(a)) * width
    return float(weights + rows * context * token_bytes(a, cache_dtype, width=width))


QWEN2_5_0_5B = Architecture(
    vocabulary=151_936,
    width=896,
    layers=24,
    heads=14,
    kv_heads=2,
    feed_forward=4_864,
    head_width=64,
)
