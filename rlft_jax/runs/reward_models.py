"""A reward model from wherever it is: a Hugging Face folder, a hub name, or a run directory."""

from pathlib import Path
from typing import Literal, NamedTuple

from rlft_jax.data.formatter_file import load_formatter
from rlft_jax.data.formatting import Formatter, Preset, TooLong
from rlft_jax.data.tokenizer import Tokenizer, load_tokenizer
from rlft_jax.models import convert, reward
from rlft_jax.models.convert_config import read_json
from rlft_jax.models.qwen2 import Compute
from rlft_jax.progress import say
from rlft_jax.runs import loading
from rlft_jax.runs.loading import Places, Structure
from rlft_jax.training.run_directory import RunDirectory
from rlft_jax.training.step import Params

Parameters = Literal["checkpoint", "new_head", "random"]


class RewardOrigin(NamedTuple):
    """A reward model's small files, read before any weights.

    Attributes:
        model: Name or folder, as the user gave it.
        folder: Holds config, tokenizer and formatter.
        run: The run directory that has the weights; None if the folder does.
    """

    model: str
    folder: Path
    run: RunDirectory | None
    architecture: reward.Architecture
    formatter: Formatter

    @property
    def tokenizer(self) -> Tokenizer:
        """What makes the ids of texts."""
        return self.formatter.tokenizer


def find(
    model: str,
    *,
    parameters: Parameters = "checkpoint",
    preset: Preset | None = None,
    tokens: int | None = None,
    too_long: TooLong | None = None,
) -> RewardOrigin:
    """Reads what a reward model is and how it reads texts, without its weights.

    Args:
        model: Where it is.
        parameters: What is to be made of it. Unless it is used as it is, its own head and its
            formatter are of no matter.
        preset, tokens, too_long: The formatter, where that is not None; what the model was
            trained with has to agree.

    Raises:
        ValueError: If it is no reward model, or was trained on other texts than these settings
            make.
    """
    run = RunDirectory(Path(model).expanduser().absolute())
    is_run, is_new = run.model.is_dir(), parameters != "checkpoint"
    folder = run.model if is_run else convert.resolve(model, with_weights=False)
    if is_run:
        _check_run(run, parameters)
    elif not is_new:
        _check_folder(folder)
    # A run's config is that of the model which it began with, and may have another head.
    architecture = reward.read_reward_architecture(folder, new_head=is_new or is_run)
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size > architecture.vocabulary:
        raise ValueError(
            f"The tokenizer in {folder} has {tokenizer.vocab_size} ids, but the model only"
            f" {architecture.vocabulary} embeddings. Put the tokenizer there that belongs to it."
        )
    formatter = load_formatter(
        folder,
        tokenizer,
        positions=architecture.max_positions,
        preset=preset,
        tokens=tokens,
        too_long=too_long,
        is_new=is_new,
    )
    return RewardOrigin(model, folder, run if is_run else None, architecture, formatter)


def structure(architecture: reward.Architecture, compute: Compute) -> Structure:
    """The model as shapes, all of which train."""
    graph, params = reward.structure(architecture, compute)
    return Structure(graph, compute, params, {})


def load(
    origin: RewardOrigin,
    *,
    parameters: Parameters = "checkpoint",
    step: int | None = None,
    shardings: Places | None = None,
    seed: int = 0,
) -> Params:
    """Loads a reward model's parameters, or makes those that are to be new.

    Args:
        origin: What `find` found.
        parameters: Whether to take the checkpoint's, all or without its head, or none.
        step: Of a run: the checkpoint to take; the best if the run kept any as such, otherwise
            the newest.
        shardings: Where they go: a tree like theirs, or one place for all; to the default device
            if left out.
        seed: Of what is new.

    Raises:
        ValueError: If there is no such checkpoint, or it is damaged.
    """
    shapes = structure(origin.architecture, Compute()).params
    where = loading.places(shapes, shardings)
    if parameters == "random":
        return reward.fresh(origin.architecture, seed=seed, shardings=where)
    if origin.run is not None:
        step = loading.chosen_step(origin.run, loading.read_config(origin.run), step)
        return loading.restored(origin.run, step, shapes, where)
    if parameters == "checkpoint":
        return reward.load(origin.model, shardings=where)[1]
    left_out = reward.left_out(convert.resolve(origin.model))
    if left_out:
        say(f"A new head takes the place of {', '.join(left_out)} in {origin.model}.")
    return reward.load(origin.model, shardings=where, new_head=seed)[1]


def _check_run(run: RunDirectory, parameters: Parameters) -> None:
    """Refuses a run that trained something else."""
    if parameters == "new_head":
        raise ValueError(
            f"{run.path} is a run directory, of which no model with a new head can be made. Export"
            " it (rlft export), and name the folder."
        )
    if not loading.is_of_reward_model(run):
        raise ValueError(
            f"{run.path} is a run that trained a policy, which gives texts no score. Name a reward"
            " model."
        )


def _check_folder(folder: Path) -> None:
    """Refuses a policy, more clearly than by its head."""
    classes = read_json(folder / "config.json").get("architectures") or []
    if any(str(name).endswith("ForCausalLM") for name in classes):
        raise ValueError(
            f"{folder} is a policy ({', '.join(classes)}), which gives texts no score. Name a"
            " reward model; to train one from it, set config.model.parameters = 'new_head'."
        )
