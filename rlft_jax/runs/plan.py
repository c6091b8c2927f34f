"""All that is known about a run before any weight is read."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
from jax.sharding import Mesh

from rlft_jax.config import checks
from rlft_jax.config.binding import bind, refusal
from rlft_jax.config.derived import group_size, is_rl, needs_old, rollout_steps
from rlft_jax.data.demonstrations import Demonstrations
from rlft_jax.data.encoding import Data, Progress
from rlft_jax.data.formatting import Formatter
from rlft_jax.data.pipeline import steps_for
from rlft_jax.data.preferences import Preferences
from rlft_jax.data.problems import Problems
from rlft_jax.data.reward_data import RewardData
from rlft_jax.models.attention import SHARING, chosen
from rlft_jax.models.qwen2 import Architecture, Compute
from rlft_jax.objectives import OBJECTIVES
from rlft_jax.progress import Advance, progress
from rlft_jax.rewards import RewardError, WeightedRewards, combined
from rlft_jax.runs import learned_rewards, loading, requirements, reward_models
from rlft_jax.runs.loading import Origin, Places, Structure
from rlft_jax.runs.reward_models import RewardOrigin
from rlft_jax.runs.scoring import Scorer
from rlft_jax.training.feeding import Feed
from rlft_jax.training.optimizer import OPTIMIZERS, Optimizer
from rlft_jax.training.processes import together
from rlft_jax.training.sharding import make_mesh, shardings
from rlft_jax.training.step import Objective, TrainState, init_state

Config = dict[str, Any]
Made = TypeVar("Made")


class Plan(NamedTuple):
    """A run's parts as shapes and places.

    Attributes:
        structure: The model that trains.
        base: The same without adapters.
        shapes: Of the train state.
        where: Shardings of the train state.
        reward: What responses are worth; None if others wrote them.
        scorers: The reward models in it, by name.
    """

    config: Config
    origin: Origin | RewardOrigin
    structure: Structure
    base: Structure
    mesh: Mesh
    data: Data
    reward: WeightedRewards | None
    steps: int
    optimizer: Optimizer
    shapes: TrainState
    where: TrainState
    scorers: Mapping[str, Scorer]

    @property
    def policy(self) -> Origin:
        """What the policy begins with, in a run that trains one."""
        assert isinstance(self.origin, Origin)
        return self.origin

    @property
    def formatter(self) -> Formatter | None:
        """What makes the texts of a reward model, in a run that trains one."""
        return self.origin.formatter if isinstance(self.origin, RewardOrigin) else None

    @property
    def is_rl(self) -> bool:
        """Whether the policy writes the responses itself."""
        return is_rl(self.config)

    @property
    def temperature(self) -> float:
        """What logits are divided by, in sampling and in training."""
        return self.config["sampling"]["temperature"] if self.is_rl else 1.0

    @property
    def feed(self) -> Feed:
        """Puts responses, or texts, on the mesh."""
        rows = self.config["batch"]
        return Feed(
            self.mesh, rows["tokens"], rows["micro_batches"], rows["packed"], self.shares_prompts
        )

    @property
    def shares_prompts(self) -> bool:
        """Whether responses that share a row share their prompt, too."""
        rows, compute = self.config["batch"], self.base.compute
        is_decoder = isinstance(self.origin.architecture, Architecture)
        if not (is_decoder and rows["packed"] and group_size(self.config) > 1):
            return False
        form = chosen(compute.attention, dtype=compute.dtype, tokens=rows["tokens"])
        wanted = rows["share_prompts"]
        return form in SHARING if wanted is None else wanted

    @property
    def rescores(self) -> bool:
        """Whether the trainer scores rollouts that the sampler has scored as it drew them."""
        config, sampling = self.config, self.config["sampling"]
        if not needs_old(config):
            return False
        if sampling["rescore"] is not None:
            return sampling["rescore"]
        types = (config["model"]["dtype"], sampling["dtype"], sampling["cache_dtype"])
        # Elsewhere products of float32 are rounded to less, and not alike in both.
        is_float32 = self.mesh.devices.flat[0].platform == "cpu" and {*types} <= {"float32", None}
        return rollout_steps(config) > 1 or config["rollout"]["overlap"] or not is_float32

    @property
    def objective(self) -> Objective:
        """What to minimise, as a function of the model and a micro-batch."""
        section = self.config["objective"]
        chosen = bind(OBJECTIVES[section["name"]], section)
        if section["name"] == "reward_model":
            return chosen
        return lambda model, batch: chosen(model, batch, self.temperature)

    @property
    def whole_where(self) -> Places:
        """Shardings of the parameters of the model without adapters."""
        return shardings(self.base.params, self.mesh)

    @property
    def state_like(self) -> TrainState:
        """The train state as shapes with their places."""
        like = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
        return jax.tree.map(like, self.shapes, self.where)


def make_plan(config: Config) -> Plan:
    """Reads data and shapes, and counts steps.

    Raises:
        ValueError: If a checkpoint, data or reward cannot be used, or the mesh does not fit.
    """
    lacking = [*requirements.misfits(config), *requirements.missing(config)]
    if lacking:
        raise refusal(lacking)
    mesh = bind(make_mesh, config["mesh"])()
    # Each of these is read whatever is wrong with the others.
    failures = Failures()
    reward = failures.collect(lambda: rewards_of(config)) if is_rl(config) else None
    learned = {} if reward is None else reward.learned
    scorers = failures.collect(lambda: learned_rewards.plan_scorers(learned, mesh))
    parts = failures.collect(lambda: parts_of(config))
    failures.refuse()
    assert scorers is not None
    assert parts is not None
    origin, structure, base, data = parts
    if config["every"]["evaluate"] and not data.heldout:
        raise ValueError(
            f"config.every.evaluate = {config['every']['evaluate']}, but nothing is held out: raise"
            " config.data.holdout, or look at config.data.heldout_path."
        )
    if scorers:
        learned_rewards.check_prompts(scorers, [*itertools.chain(*data.parts), *data.heldout])
    steps = count_steps(config, data.size)
    too_warm = [*checks.warmup(config, steps)]
    if too_warm:
        raise refusal(too_warm)
    name = config["optimizer"]["name"]
    optimizer = bind(OPTIMIZERS[name], config["optimizer"])(steps)
    shapes = jax.eval_shape(lambda params: init_state(params, optimizer), structure.params)
    where = shardings(shapes, mesh)
    return Plan(
        config=config,
        origin=origin,
        structure=structure,
        base=base,
        mesh=mesh,
        data=data,
        reward=reward,
        steps=steps,
        optimizer=optimizer,
        shapes=shapes,
        where=where,
        scorers=scorers,
    )


class Failures:
    """What users did wrong in several places, to be told together."""

    def __init__(self):
        self._errors: list[ValueError] = []

    def collect(self, act: Callable[[], Made]) -> Made | None:
        """Returns what `act` does; None if that failed."""
        try:
            return act()
        except ValueError as error:
            self._errors.append(error)
            return None

    def refuse(self) -> None:
        """Raises what was collected, if anything was."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise refusal(map(str, self._errors)) from self._errors[0]


def rewards_of(config: Config) -> WeightedRewards:
    """What a run's responses are worth, but for reward models, which are not loaded yet.

    A reward that fails on one process fails everywhere, so that all save and stop.
    """
    reward = bind(combined, config["reward"])(config["data"]["task"])
    return dataclasses.replace(reward, agreed=functools.partial(together, error=RewardError))


def parts_of(config: Config) -> tuple[Origin | RewardOrigin, Structure, Structure, Data]:
    """Where a run's model is from, what of it trains, the same without adapters, and the data."""
    is_policy = config["objective"]["name"] != "reward_model"
    return policy_parts(config) if is_policy else reward_parts(config)


def reward_parts(config: Config) -> tuple[RewardOrigin, Structure, Structure, Data]:
    """What is particular to a run that trains a reward model, and what it learns from."""
    section = dict(config["model"])
    path, parameters = section.pop("path"), section.pop("parameters")
    texts = {**config["formatter"], "tokens": config["batch"]["tokens"]}
    origin = reward_models.find(path, parameters=parameters, **texts)
    if section["attention"] != "auto" and not isinstance(origin.architecture, Architecture):
        raise ValueError(
            f"config.model.attention = {section['attention']!r} has no effect on an encoder, which"
            " has a way of its own; leave it at 'auto'."
        )
    if config["batch"]["share_prompts"] and not isinstance(origin.architecture, Architecture):
        raise ValueError(
            "config.batch.share_prompts = True has no effect on an encoder, whose tokens see those"
            " after them, too; leave it at None."
        )
    structure = reward_models.structure(origin.architecture, Compute(**section))
    read, loss = bind(RewardData, config["data"])().read, config["objective"]["loss"]
    with encoding() as show:
        data = read(origin.formatter, loss, config["seed"], show)
    return origin, structure, structure, data


def policy_parts(config: Config) -> tuple[Origin, Structure, Structure, Data]:
    """What is particular to a run that trains a policy, and what it learns from."""
    origin = loading.find(config["model"]["path"])
    check_lengths(config, origin.architecture.max_positions)
    compute = Compute(**{k: v for k, v in config["model"].items() if k != "path"})
    base = structure = loading.structure(origin.architecture, compute)
    if config["lora"] is not None:
        adapter = loading.adapter_settings(config["lora"], origin.architecture)
        structure = loading.structure(origin.architecture, compute, adapter)
    return origin, structure, base, read_data(config, origin)


def check_lengths(config: Config, most: int) -> None:
    """Refuses rows and responses that are longer than the model can be.

    Raises:
        ValueError: If so, naming the settings.
    """
    tokens, evaluation, wrong = config["batch"]["tokens"], config["evaluation"], []
    if tokens > most:
        wrong.append(f"config.batch.tokens = {tokens}")
    if is_rl(config):
        sampling = config["sampling"]
        longest = tokens - sampling["max_new_tokens"] + evaluation["max_new_tokens"]
        if config["every"]["evaluate"] and longest > most:
            wrong.append(
                f"config.evaluation.max_new_tokens = {evaluation['max_new_tokens']} after prompts"
                f" of up to {tokens - sampling['max_new_tokens']} tokens"
            )
    if wrong:
        raise ValueError(f"The model has {most} positions, too few for {' and '.join(wrong)}.")


def read_data(config: Config, origin: Origin) -> Data:
    """Reads and encodes what a run learns from."""
    tokens, seed, section = config["batch"]["tokens"], config["seed"], config["data"]
    if is_rl(config):
        room = tokens - config["sampling"]["max_new_tokens"]
        return bind(Problems, section)().read(origin.tokenizer, room, seed)
    kind = Preferences if config["objective"]["name"] == "dpo" else Demonstrations
    with encoding() as show:
        return bind(kind, section)().read(origin.tokenizer, tokens, seed, show)


@contextlib.contextmanager
def encoding() -> Iterator[Progress]:
    """Shows how far the encoding has come, of each data set by a bar of its own."""
    with contextlib.ExitStack() as bar:
        advance: Advance | None = None
        done = 0

        def show(rows: int, total: int) -> None:
            nonlocal advance, done
            if advance is None:
                advance = bar.enter_context(progress("Encoding", total, unit="rows"))
            advance(rows - done)
            done = rows
            if rows == total:
                bar.close()
                advance, done = None, 0

        yield show


def count_steps(config: Config, examples: int) -> int:
    """Steps of a run, from its epochs if need be."""
    if config["steps"] is not None:
        return config["steps"]
    prompts, epochs = config["batch"]["prompts"], config["epochs"]
    if not is_rl(config):
        return steps_for(epochs, examples=examples, prompts=prompts)
    prompts *= config["rollout"]["minibatches"]
    return steps_for(epochs, examples=examples, prompts=prompts) * rollout_steps(config)
