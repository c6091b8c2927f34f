"""A policy from wherever it is: a Hugging Face folder, a hub name, or a run directory."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import PyTree

from rlft_jax.config.derived import best_mode, with_paths
from rlft_jax.data.formatter_file import save_formatter
from rlft_jax.data.formatting import Formatter
from rlft_jax.data.tokenizer import Tokenizer, load_tokenizer, stop_ids
from rlft_jax.files import written_whole
from rlft_jax.models import convert, lora, peft
from rlft_jax.models.convert_config import read_architecture, read_json
from rlft_jax.models.digest import digest
from rlft_jax.models.new_folder import new_folder
from rlft_jax.models.qwen2 import Architecture, Compute, Dtype, Qwen2
from rlft_jax.training import step_folders
from rlft_jax.training.checkpoint import Checkpoints
from rlft_jax.training.run_directory import RunDirectory
from rlft_jax.training.step import Params

Shapes = PyTree[jax.ShapeDtypeStruct]
Places = PyTree[jax.sharding.Sharding]


class Origin(NamedTuple):
    """A checkpoint's small files, read before any weights.

    Attributes:
        model: Name or folder, as the user gave it.
        folder: Holds configs and tokenizer.
        run: The run directory that has the weights; None if the folder does.
    """

    model: str
    folder: Path
    run: RunDirectory | None
    architecture: Architecture
    tokenizer: Tokenizer
    stop_ids: tuple[int, ...]


class Policy(NamedTuple):
    """A model with all its parameters, adapters merged."""

    graph: nnx.GraphDef
    params: Params
    origin: Origin


class Structure(NamedTuple):
    """A model without numbers: what trains and what does not, as shapes.

    Attributes:
        params: Shapes of the trainable parameters.
        frozen: Shapes of the others.
    """

    graph: nnx.GraphDef
    compute: Compute
    params: Shapes
    frozen: Shapes

    def computing_in(self, dtype: Dtype) -> nnx.GraphDef:
        """The same model's graph, to compute in another type."""
        model = nnx.merge(self.graph, self.params, self.frozen)
        model.compute = dataclasses.replace(model.compute, dtype=dtype)
        return nnx.split(model)[0]


def find(model: str) -> Origin:
    """Reads what a checkpoint is, without its weights.

    Raises:
        ValueError: If it is no checkpoint of a kind that we know.
    """
    run = RunDirectory(Path(model).expanduser().absolute())
    is_run = run.model.is_dir()
    if is_run and is_of_reward_model(run):
        raise ValueError(
            f"{model} is a run that trained a reward model, which writes no texts. Name a policy."
        )
    folder = run.model if is_run else convert.resolve(model, with_weights=False)
    architecture = read_architecture(folder)
    tokenizer = load_tokenizer(folder)
    generation = folder / "generation_config.json"
    ends = stop_ids(tokenizer, read_json(generation) if generation.exists() else None)
    return Origin(model, folder, run if is_run else None, architecture, tokenizer, ends)


def structure(
    architecture: Architecture, compute: Compute, adapter: lora.Settings | None = None
) -> Structure:
    """The model as shapes, with its adapters as what trains if there are any."""
    model = nnx.eval_shape(lambda: _new(architecture, compute, adapter, jax.random.key(0)))
    pure = nnx.to_pure_dict
    if adapter is None:
        graph, params = nnx.split(model)
        return Structure(graph, compute, pure(params), {})
    graph, params, frozen = nnx.split(model, lora.LoRAParam, ...)
    return Structure(graph, compute, pure(params), pure(frozen))


def new_adapter(architecture: Architecture, adapter: lora.Settings, seed: int) -> Params:
    """Fresh adapters, which change nothing yet."""

    def make() -> Params:
        model = _new(architecture, Compute(), adapter, jax.random.key(seed))
        return nnx.to_pure_dict(nnx.state(model, lora.LoRAParam))

    # Only the adapters leave the program, so only they are computed.
    return jax.jit(make)()


def load(
    model: str | Origin,
    *,
    compute: Compute | None = None,
    step: int | None = None,
    shardings: Places | None = None,
) -> Policy:
    """Loads a policy, adapters merged where its parameters go.

    Args:
        model: A Hugging Face folder, a name on the hub, a run directory, or what `find` found.
        compute: How to compute with it.
        step: Of a run: the checkpoint to take; the best if the run kept any as such, otherwise
            the newest.
        shardings: Where the parameters go: a tree like theirs, or one place for all, such as
            `host()`; to the default device if left out.

    Raises:
        ValueError: If there is no such checkpoint, or it is damaged.
    """
    origin = find(model) if isinstance(model, str) else model
    graph, _, shapes, _ = structure(origin.architecture, compute or Compute())
    where = places(shapes, shardings)
    if origin.run is None:
        if step is not None:
            raise ValueError(f"--step = {step}: {origin.folder} is no run, so it has no steps.")
        folder = convert.resolve(origin.model)
        return Policy(graph, convert.load(folder, shardings=where), origin)
    return Policy(graph, _of_run(origin, origin.run, step, where), origin)


def host() -> jax.sharding.Sharding:
    """The host's memory as a place for parameters, which then need not fit an accelerator's.

    Where JAX_PLATFORMS leaves the CPU out, the default device stands in for it.
    """
    platforms = jax.config.values["jax_platforms"]
    has_cpu = not platforms or "cpu" in platforms.split(",")
    devices = jax.local_devices(backend="cpu" if has_cpu else None)
    return jax.sharding.SingleDeviceSharding(devices[0])


def checkpoints(run: RunDirectory, config: dict[str, Any]) -> Checkpoints:
    """A run's checkpoints, kept as its config says."""
    keep = config["keep"]
    return Checkpoints(
        run.checkpoints,
        keep_last=keep["last"],
        keep_every=keep["every"],
        keep_best=keep["best"],
        best_mode=best_mode(config),
    )


def is_begun(run: RunDirectory) -> bool:
    """Whether a run has saved anything yet, be it damaged."""
    return bool(step_folders.present(run.checkpoints))


def is_of_reward_model(run: RunDirectory) -> bool:
    """Whether what a run trains is a reward model."""
    return read_config(run)["objective"]["name"] == "reward_model"


def keep_small_files(
    beginning: Path, tokenizer: Tokenizer, formatter: Formatter | None, run: RunDirectory
) -> None:
    """Writes configs, tokenizer and formatter to a run, to be read without its beginning.

    Args:
        beginning: The folder that the run begins with.
        tokenizer: Of the model.
        formatter: Of a reward model.
        run: Where they go.
    """
    if run.model.exists() and is_begun(run):
        return
    with new_folder(run.model, replace=True) as folder:
        for name in ("config.json", "generation_config.json"):
            if (beginning / name).exists():
                shutil.copy(beginning / name, folder / name)
        tokenizer.save(folder)
        if formatter is not None:
            save_formatter(formatter, folder)


def chosen_step(run: RunDirectory, config: dict[str, Any], step: int | None = None) -> int:
    """The step of a run to load: the one asked for, else the best if kept, else the newest."""
    keep, kept = config["keep"], checkpoints(run, config)
    found = step
    if found is None and keep["best"]:
        found = kept.best()
    if found is None:
        found = kept.latest()
    if found is None or found not in kept.steps():
        raise ValueError(
            f"{run.path} has no checkpoint"
            + (f" of step {step}." if step is not None else ".")
            + f" There are steps {kept.steps() or 'none'}."
        )
    return found


def adapter_of(
    run: RunDirectory, architecture: Architecture, config: dict[str, Any], step: int
) -> tuple[lora.Settings, Params]:
    """The adapters of a run's checkpoint, on the host, and their settings."""
    settings = adapter_settings(config["lora"], architecture)
    shapes = structure(architecture, Compute(), settings).params
    return settings, restored(run, step, shapes, places(shapes, host()))


def keep_places(run: RunDirectory, config: dict[str, Any]) -> None:
    """Writes where the folders and files are that the config names, as seen from anywhere."""
    found: dict[str, str] = {}

    def keep(path: str) -> str:
        place = Path(path).expanduser().absolute()
        if place.exists():  # otherwise it is a name on the hub
            found[path] = str(place)
        return path

    with_paths(config, keep)
    with written_whole(run.places) as file:
        json.dump(found, file, indent=2)


def read_config(run: RunDirectory) -> dict[str, Any]:
    """The resolved config that a run began with; what it names is named as seen from anywhere."""
    config = read_json(run.config)
    known = read_json(run.places) if run.places.exists() else {}
    return with_paths(config, lambda path: known.get(path, path))


def adapter_settings(section: dict[str, Any], architecture: Architecture) -> lora.Settings:
    """What a config's `lora` section says, or the adapter folder that it names."""
    if section["path"] is not None:
        return peft.load(section["path"], architecture)[0]
    values = {name: value for name, value in section.items() if name != "path"}
    if isinstance(values["targets"], list):  # as JSON has it
        values["targets"] = tuple(values["targets"])
    return lora.Settings(**values)


def merged_trees(params: Params, frozen: Params) -> Params:
    """Two trees of parameters as one, as the model without distinction has them."""
    both = dict(frozen)
    for name, value in params.items():
        is_tree = isinstance(value, dict) and name in both
        both[name] = merged_trees(value, both[name]) if is_tree else value
    return both


def _of_run(origin: Origin, run: RunDirectory, step: int | None, shardings: Places) -> Params:
    config = read_config(run)
    step = chosen_step(run, config, step)
    if config["lora"] is None:
        shapes = structure(origin.architecture, Compute()).params
        return restored(run, step, shapes, shardings)
    settings, adapter = adapter_of(run, origin.architecture, config, step)
    adapter = jax.device_get(adapter)  # small, and then at home on any mesh
    base = load(config["model"]["path"], shardings=shardings).params
    before = Checkpoints(run.checkpoints).extra(step)["frozen"]
    if digest(base) != before:
        raise ValueError(
            f"{config['model']['path']} is not the base that the adapters of {run.path} were"
            f" trained on: its digest was {before} and is {digest(base)}. Put that base back."
        )
    return peft.merge(base, adapter, scale=settings.scale)


def restored(run: RunDirectory, step: int, shapes: Shapes, where: Places) -> Params:
    """Parameters of a checkpoint, in their places."""
    place = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    like = {"params": jax.tree.map(place, shapes, where)}
    return Checkpoints(run.checkpoints).restore_arrays(step, like)["params"]


def places(shapes: Shapes, where: Places | None) -> Places:
    """A place for every array."""
    if where is None:
        where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.broadcast(where, shapes)


def _new(
    architecture: Architecture, compute: Compute, adapter: lora.Settings | None, key: jax.Array
) -> Qwen2:
    model = Qwen2(architecture, compute=compute, rngs=nnx.Rngs(key))
    if adapter is not None:
        lora.add(model, adapter, key=jax.random.fold_in(key, 1))
    return model
