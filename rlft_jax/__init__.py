"""Post-training of small language models in JAX: Hugging Face in, Hugging Face out.

Axes have one letter everywhere, in annotations and as suffixes of array names:

- `B` prompts, `G` responses to each prompt, `M` micro-batches, `P` = B / M prompts of one,
- `R` rows, `T` tokens of a row, `S` tokens attended to,
- `V` vocabulary, `D` width, `F` feed-forward width, `L` layers,
- `N` query heads, `K` key/value heads, `H` width of a head.

A chunk of an axis is its letter in lower case: `logits_RcV`.
"""

__version__ = "0.1.0"
