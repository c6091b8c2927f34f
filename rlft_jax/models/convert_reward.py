"""Which tensors of Hugging Face make up a reward model."""

import re
from collections.abc import Mapping

from rlft_jax.models import convert, deberta, distilbert, qwen2
from rlft_jax.models.safetensors_files import Stored
from rlft_jax.models.tensor_table import Entry, Place

Table = dict[Place, Entry]

DISTILBERT_LINEAR = {
    ("attention", "q"): "attention.q_lin",
    ("attention", "k"): "attention.k_lin",
    ("attention", "v"): "attention.v_lin",
    ("attention", "o"): "attention.out_lin",
    ("mlp", "up"): "ffn.lin1",
    ("mlp", "down"): "ffn.lin2",
}
DEBERTA_LINEAR = {
    ("attention", "q"): "attention.self.query_proj",
    ("attention", "k"): "attention.self.key_proj",
    ("attention", "v"): "attention.self.value_proj",
    ("attention", "o"): "attention.output.dense",
    ("mlp", "up"): "intermediate.dense",
    ("mlp", "down"): "output.dense",
}
DISTILBERT_NORMS = {"attention_norm": "sa_layer_norm", "mlp_norm": "output_layer_norm"}
DEBERTA_NORMS = {"attention_norm": "attention.output.LayerNorm", "mlp_norm": "output.LayerNorm"}

# Before version 2 of transformers; bert-base-uncased still says so.
OLD_NORM = re.compile(r"(?<=LayerNorm\.)(gamma|beta)$")
NEW_NORM = {"gamma": "weight", "beta": "bias"}


def qwen2_entries(a: qwen2.Architecture) -> Table:
    """The parameters of `Qwen2ForSequenceClassification`."""
    return convert.entries(a) | {("score", "kernel"): _kernel("score", a.width, 1)}


def distilbert_entries(a: distilbert.Architecture) -> Table:
    """The parameters of `DistilBertForSequenceClassification`."""
    embeddings = "distilbert.embeddings"
    return {
        ("embed", "tokens", "embedding"): Entry(
            (f"{embeddings}.word_embeddings.weight",), (a.vocabulary, a.width)
        ),
        ("embed", "positions", "embedding"): Entry(
            (f"{embeddings}.position_embeddings.weight",), (a.max_positions, a.width)
        ),
        **_norm(("embed", "norm"), f"{embeddings}.LayerNorm", a.width),
        **_layers("distilbert.transformer.layer", a, DISTILBERT_LINEAR, DISTILBERT_NORMS),
        **_linear(("pooler",), "pre_classifier", a.width, a.width),
        **_linear(("score",), "classifier", a.width, 1),
    }


def deberta_entries(a: deberta.Architecture) -> Table:
    """The parameters of `DebertaV2ForSequenceClassification`."""
    embeddings, encoder = "deberta.embeddings", "deberta.encoder"
    tables = {
        ("embed", "tokens"): (f"{embeddings}.word_embeddings", a.vocabulary),
        ("embed", "positions"): (f"{embeddings}.position_embeddings", a.max_positions),
        ("embed", "types"): (f"{embeddings}.token_type_embeddings", a.types),
        ("distances",): (f"{encoder}.rel_embeddings", 2 * a.span),
    }
    if not a.has_positions:
        del tables["embed", "positions"]
    table: Table = {
        (*place, "embedding"): Entry((f"{name}.weight",), (size, a.width))
        for place, (name, size) in tables.items()
        if size
    }
    linear = dict(DEBERTA_LINEAR)
    if not a.has_shared_keys:
        own = {"c2p": ("distance_k", "pos_key_proj"), "p2c": ("distance_q", "pos_query_proj")}
        for ours, theirs in (own[term] for term in a.terms):
            linear["attention", ours] = f"attention.self.{theirs}"
    table |= _norm(("embed", "norm"), f"{embeddings}.LayerNorm", a.width)
    table |= _layers(f"{encoder}.layer", a, linear, DEBERTA_NORMS)
    if a.normalises_distances:
        table |= _norm(("distance_norm",), f"{encoder}.LayerNorm", a.width)
    if a.conv_width:
        shape = (a.width, a.width, a.conv_width)
        kernel = Entry((f"{encoder}.conv.conv.weight",), shape, is_transposed=True)
        table["conv", "kernel"] = kernel
        table["conv", "bias"] = Entry((f"{encoder}.conv.conv.bias",), (a.width,))
        table |= _norm(("conv", "norm"), f"{encoder}.conv.LayerNorm", a.width)
    return {
        **table,
        **_linear(("pooler",), "pooler.dense", a.width, a.width),
        **_linear(("score",), "classifier", a.width, 1),
    }


def renamed(tensors: Mapping[str, Stored], prefix: str) -> dict[str, Stored]:
    """Tensors under the names of a scoring model, as old files and bare encoders have others.

    Args:
        prefix: What the names of the model below the head begin with; a bare one has none.
    """
    bare = "" if any(name.startswith(prefix) for name in tensors) else prefix
    new = lambda name: bare + OLD_NORM.sub(lambda match: NEW_NORM[match[0]], name)
    return {name if new(name) in tensors else new(name): t for name, t in tensors.items()}


def _layers(
    prefix: str,
    a: deberta.Architecture | distilbert.Architecture,
    linear: Mapping[Place, str],
    norms: Mapping[str, str],
) -> Table:
    """The stacked parameters of an encoder's layers."""
    names = lambda name: tuple(f"{prefix}.{i}.{name}" for i in range(a.layers))
    table: Table = {}
    for ours, theirs in norms.items():
        table["layers", ours, "scale"] = Entry(names(f"{theirs}.weight"), (a.width,), True)
        table["layers", ours, "bias"] = Entry(names(f"{theirs}.bias"), (a.width,), True)
    for ours, theirs in linear.items():
        d_out = a.feed_forward if ours == ("mlp", "up") else a.width
        d_in = a.feed_forward if ours == ("mlp", "down") else a.width
        kernel, bias = names(f"{theirs}.weight"), names(f"{theirs}.bias")
        table["layers", *ours, "kernel"] = Entry(kernel, (d_out, d_in), True, True)
        table["layers", *ours, "bias"] = Entry(bias, (d_out,), True)
    return table


def _kernel(name: str, d_in: int, d_out: int) -> Entry:
    return Entry((f"{name}.weight",), (d_out, d_in), is_transposed=True)


def _linear(place: Place, name: str, d_in: int, d_out: int) -> Table:
    bias = Entry((f"{name}.bias",), (d_out,))
    return {(*place, "kernel"): _kernel(name, d_in, d_out), (*place, "bias"): bias}


def _norm(place: Place, name: str, width: int) -> Table:
    scale, bias = Entry((f"{name}.weight",), (width,)), Entry((f"{name}.bias",), (width,))
    return {(*place, "scale"): scale, (*place, "bias"): bias}
