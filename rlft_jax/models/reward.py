"""Reward models of every kind, from and to Hugging Face folders, behind one interface.

Every model has `scores(batch) -> Float[Array, "P G"]`, whatever it is inside.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import unflatten_dict
from jaxtyping import PyTree

from rlft_jax.models import (
    convert,
    convert_config,
    convert_reward,
    convert_reward_config,
    deberta,
    distilbert,
    qwen2,
    safetensors_files,
)
from rlft_jax.models.deberta import DeBERTa
from rlft_jax.models.distilbert import DistilBERT
from rlft_jax.models.qwen2 import Compute
from rlft_jax.models.qwen2_reward import Qwen2Reward
from rlft_jax.models.safetensors_files import Stored
from rlft_jax.models.tensor_table import (
    Entry,
    Params,
    Place,
    by_place,
    check_layers,
    differences,
    place,
    refuse,
    write,
)

Architecture = deberta.Architecture | distilbert.Architecture | qwen2.Architecture
Shapes = PyTree[jax.ShapeDtypeStruct]

HEAD = ("pooler", "score")  # where a head's parameters begin
ONE_SCORE = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}


class Family(NamedTuple):
    """One kind of model.

    Attributes:
        class_name: transformers' class of its scoring models.
        prefix: What tensors below the head begin with.
        buffers: Tensors below the head that files have and models do not need.
        layers_key: Where its config says how many layers there are.
    """

    architecture: type
    model: Callable[..., Any]
    read: Callable[[Mapping[str, Any]], tuple[dict[str, Any], list[str]]]
    config: Callable[[Any], dict[str, Any]]
    entries: Callable[[Any], dict[Place, Entry]]
    class_name: str
    prefix: str
    buffers: str
    layers_key: str = "num_hidden_layers"


FAMILIES = {
    "deberta-v2": Family(
        deberta.Architecture,
        DeBERTa,
        convert_reward_config.read_deberta,
        convert_reward_config.deberta_config,
        convert_reward.deberta_entries,
        "DebertaV2ForSequenceClassification",
        "deberta.",
        # Files of version 3 have positions for pretraining's decoder alone.
        r"embeddings\.(position_ids|position_embeddings\.weight)$",
    ),
    "distilbert": Family(
        distilbert.Architecture,
        DistilBERT,
        convert_reward_config.read_distilbert,
        convert_reward_config.distilbert_config,
        convert_reward.distilbert_entries,
        "DistilBertForSequenceClassification",
        "distilbert.",
        r"embeddings\.position_ids$",
        "n_layers",
    ),
    "qwen2": Family(
        qwen2.Architecture,
        Qwen2Reward,
        convert_reward_config.read_qwen2,
        convert_config.config_of,
        convert_reward.qwen2_entries,
        "Qwen2ForSequenceClassification",
        "model.",
        re.escape(convert.ROTARY_BUFFER) + "$",
    ),
}


def read_reward_architecture(folder: Path, *, new_head: bool = False) -> Architecture:
    """Returns the architecture that a folder's config.json describes.

    Args:
        new_head: Whether the folder's own head is of no matter.

    Raises:
        ValueError: If it is no model of a known kind that gives one score; all problems listed.
    """
    file = Path(folder) / "config.json"
    config = convert_config.read_json(file)
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        raise ValueError(
            f"{file} describes the unknown architecture {config.get('model_type')!r}."
            f" Choose a reward model whose model_type is one of {', '.join(FAMILIES)}."
        )
    fields, problems = family.read(config)
    convert_config.refuse(problems + ([] if new_head else _head_problems(config, family)), file)
    return family.architecture(**fields)


def structure(
    architecture: Architecture, compute: Compute | None = None
) -> tuple[nnx.GraphDef, Shapes]:
    """The model without numbers, and the shapes of its parameters."""
    make = lambda: family_of(architecture).model(architecture, compute=compute, rngs=nnx.Rngs(0))
    graph, params = nnx.split(nnx.eval_shape(make))
    return graph, nnx.to_pure_dict(params)


def fresh(architecture: Architecture, *, seed: int, shardings: Any = None) -> Params:
    """Returns random parameters of a model that is trained from the beginning."""
    return jax.jit(lambda: _random(architecture, seed), out_shardings=shardings)()


def load(
    model: str | Path,
    *,
    compute: Compute | None = None,
    shardings: Any = None,
    new_head: int | None = None,
) -> tuple[nnx.GraphDef, Params]:
    """Loads a reward model, its float32 parameters placed as they are read.

    Args:
        model: A folder, or a name on the hub.
        compute: How to compute with it.
        shardings: Where the parameters go; without it all go to the default device.
        new_head: Seed of a fresh head in place of the folder's own, which may be any or none. See
            `left_out` for what is then not read.

    Raises:
        ValueError: If the folder is not a whole and sound checkpoint of a known kind; all that is
            wrong is listed, and nothing has been allocated.
    """
    folder = convert.resolve(str(model))
    architecture = read_reward_architecture(folder, new_head=new_head is not None)
    table, tensors, _ = _checked(folder, architecture, new_head=new_head is not None)
    params = place(table, tensors, shardings=shardings)
    if new_head is not None:
        params |= _fresh_head(architecture, new_head, shardings)
    return structure(architecture, compute)[0], params


def left_out(folder: Path) -> list[str]:
    """The names of a folder's tensors that a fresh head leaves unread: other heads."""
    architecture = read_reward_architecture(folder, new_head=True)
    return _checked(folder, architecture, new_head=True)[2]


def save(
    folder: Path,
    params: Params,
    architecture: Architecture,
    *,
    dtype: str = "float32",
    source: Path | None = None,
    pad_id: int | None = None,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes weights and config as `save_pretrained` does; the tokenizer's files are not ours.

    Args:
        folder: An existing one; see `new_folder.new_folder`.
        dtype: Type of the tensors in the files.
        source: The checkpoint that training began with, whose config is carried over.
        pad_id: The tokenizer's; `Qwen2ForSequenceClassification` finds a text's end by it.
        shard_bytes: Bytes of a file at which the next one begins.

    Raises:
        ValueError: If a parameter is not finite in `dtype`, or the source is another model.
    """
    family = family_of(architecture)
    config = family.config(architecture)
    if source is not None:
        theirs = read_reward_architecture(source, new_head=True)
        config = convert_config.carried_over(source, theirs, architecture)
    if _head_problems(config, family) or config.get("architectures") is None:
        config |= ONE_SCORE | {"architectures": [family.class_name]}
        for key in ("num_labels", "problem_type"):  # of the head that was there
            config.pop(key, None)
    if pad_id is not None:
        config["pad_token_id"] = pad_id
    config["dtype" if "dtype" in config else "torch_dtype"] = dtype
    convert_config.write_json(folder / "config.json", config)
    write(folder, params, family.entries(architecture), dtype=dtype, shard_bytes=shard_bytes)


def family_of(architecture: Architecture) -> Family:
    """The kind of model that an architecture is of."""
    return next(f for f in FAMILIES.values() if isinstance(architecture, f.architecture))


def _head_problems(config: Mapping[str, Any], family: Family) -> list[str]:
    """Why a config's head does not give one score, and what to do."""
    problems = []
    if config.get("architectures") not in (None, [family.class_name]):
        problems.append(f"architectures = {config['architectures']}, not ['{family.class_name}']")
    names = config.get("id2label")
    labels = len(names) if isinstance(names, dict) else config.get("num_labels", 2)
    if labels != 1:
        problems.append(f"its head gives {labels} scores (id2label), not 1")
    if problems:
        problems.append("to train a fresh head in place of its own, ask for one (new_head)")
    return problems


def _checked(
    folder: Path, architecture: Architecture, *, new_head: bool
) -> tuple[dict[Place, Entry], dict[str, Stored], list[str]]:
    """What to read of a folder, its tensors, and those that are another head's."""
    family = family_of(architecture)
    tensors = safetensors_files.read_folder(folder)
    check_layers(architecture.layers, tensors, folder, key=family.layers_key)
    tensors = convert_reward.renamed(tensors, family.prefix)
    table = family.entries(architecture)
    if new_head:
        table = {at: entry for at, entry in table.items() if at[0] not in HEAD}
    problems, beyond = differences(table, tensors)
    beyond = [name for name in beyond if not re.search(family.buffers, name)]
    other = [name for name in beyond if new_head and not name.startswith(family.prefix)]
    beyond = [name for name in beyond if name not in other]
    refuse(problems + [f"{name} is not part of this architecture" for name in beyond], folder)
    return table, tensors, other


def _random(architecture: Architecture, seed: int) -> Params:
    model = family_of(architecture).model(architecture, rngs=nnx.Rngs(seed))
    return nnx.to_pure_dict(nnx.state(model))


def _fresh_head(architecture: Architecture, seed: int, shardings: Any) -> Params:
    """Random parameters of a head, placed. Nothing else is computed, as nothing else is kept."""
    is_head = lambda tree: {k: v for k, v in tree.items() if k in HEAD}
    head = jax.device_get(jax.jit(lambda: is_head(_random(architecture, seed)))())
    if shardings is None:
        return jax.tree.map(jax.device_put, head)
    where = by_place(shardings)
    put = lambda x, at: jax.make_array_from_callback(
        x.shape, at, lambda index: np.asarray(x)[index]
    )
    return unflatten_dict({p: put(x, where[p]) for p, x in by_place(head).items()})
