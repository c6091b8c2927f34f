"""What the tests of all reward models say of one."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rlft_jax.models import reward
from rlft_jax.models.qwen2 import Compute
from rlft_jax.models.tensor_table import Params, by_place
from rlft_jax.training.sharding import make_mesh, shardings
from tests.models.reward_models import (
    cotangent,
    exported,
    laid,
    random_params,
    scores,
    scores_and_gradients,
    table_of,
    texts,
)

TOLERANCE = 2e-5  # relative to the largest entry; 1e-4 is what was promised


def assert_close(ours, theirs, name: str = "", floor: float = 0.0) -> None:
    """Equal but for float32 rounding."""
    theirs = np.asarray(theirs)
    error = np.abs(np.asarray(ours) - theirs).max() / max(np.abs(theirs).max(), floor)
    assert error < TOLERANCE, f"{name}: {error}"


def assert_same_gradients(ours: Params, theirs: Mapping[str, np.ndarray], architecture) -> None:
    """Compares tensor by tensor, under Hugging Face's names.

    Some gradients are 0 but for rounding, as a bias of all keys changes no attention; they are
    compared on the scale of the others.
    """
    largest = max(np.abs(gradient).max() for gradient in theirs.values())
    ours_by_place = by_place(ours)
    names = []
    for place, entry in table_of(architecture).items():
        stacked = ours_by_place[place] if entry.is_stacked else [ours_by_place[place]]
        for name, gradient in zip(entry.names, stacked, strict=True):
            names.append(name)
            gradient = np.asarray(gradient).T if entry.is_transposed else gradient
            assert_close(gradient, theirs[name], name, floor=0.01 * largest)
    assert sorted(names) == sorted(theirs)


def assert_equals_transformers(architecture, folder: Path) -> None:
    """Scores and gradients of an export are those of transformers, padded and packed."""
    from tests.models.torch_rewards import reference

    params = exported(folder, architecture)
    data = texts(architecture)
    weights = cotangent(data)
    theirs = reference(folder, data, weights)
    for packed in (False, True):
        batch = laid(data, packed=packed)
        found, gradients = scores_and_gradients(architecture, params, batch, weights)
        assert_close(found, theirs.scores)
        assert_same_gradients(gradients, theirs.gradients, architecture)


def assert_packing_changes_nothing(architecture) -> None:
    """Texts that share rows score as in rows of their own, and get the same gradients."""
    params, data = random_params(architecture), texts(architecture)
    run = lambda packed: scores_and_gradients(
        architecture, params, laid(data, packed=packed), cotangent(data)
    )
    (apart, apart_gradients), (packed, packed_gradients) = run(False), run(True)
    assert laid(data, packed=True).tokens.shape[0] < data.lengths.size
    assert_close(packed, apart)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(apart_gradients))
    theirs = by_place(apart_gradients)
    for place, gradient in by_place(packed_gradients).items():
        assert_close(gradient, theirs[place], str(place), floor=0.01 * largest)


def assert_no_text_sees_another(architecture) -> None:
    """Changing a text, or padding, changes that text's score to the last bit alone."""
    params, data = random_params(architecture), texts(architecture)
    batch = laid(data, packed=True)
    before = scores(architecture, params, batch).ravel()
    for segment in range(data.lengths.size + 1):
        other = batch.tokens % (architecture.vocabulary - 1) + 1
        changed = batch._replace(tokens=jnp.where(batch.segments == segment, other, batch.tokens))
        after = scores(architecture, params, changed).ravel()
        is_other = np.arange(before.size) != segment - 1
        np.testing.assert_array_equal(after[is_other], before[is_other])
        assert (after[~is_other] != before[~is_other]).all()


def assert_a_mesh_changes_nothing(architecture, mesh: tuple[int, int, int]) -> None:
    """Scores and gradients on eight devices are those on one, and every matrix is cut."""
    params, data = random_params(architecture), texts(architecture)
    batch, weights = laid(data, packed=True, multiple=8), cotangent(data)
    alone, gradients = scores_and_gradients(architecture, params, batch, weights)
    devices = make_mesh(data=mesh[0], fsdp=mesh[1], tensor=mesh[2])
    where = shardings(params, devices)
    whole = [place for place, at in by_place(where).items() if at.is_fully_replicated]
    assert {place[-1] for place in whole if place[0] != "score"} <= {"scale", "bias"}
    rows = jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec(("data", "fsdp")))
    on_rows = ("tokens", "types", "segments", "positions")
    spread = batch._replace(**{k: jax.device_put(getattr(batch, k), rows) for k in on_rows})
    cut = jax.device_put(params, where)
    found, cut_gradients = scores_and_gradients(architecture, cut, spread, weights)
    assert_close(found, alone)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(gradients))
    theirs = by_place(gradients)
    for place, gradient in by_place(cut_gradients).items():
        assert_close(gradient, theirs[place], str(place), floor=0.01 * largest)


def assert_compute_changes_nothing(architecture) -> None:
    """Unrolling and recomputation change no gradient; bfloat16 changes scores a little."""
    params, data = random_params(architecture), texts(architecture)
    batch, weights = laid(data, packed=True), cotangent(data)
    run = lambda **how: scores_and_gradients(architecture, params, batch, weights, Compute(**how))
    found, gradients = run()
    largest = max(np.abs(g).max() for g in jax.tree.leaves(gradients))
    theirs = by_place(gradients)
    for how in (dict(unroll=0), dict(remat="dots"), dict(remat="full")):
        again, again_gradients = run(**how)
        assert_close(again, found)
        for place, gradient in by_place(again_gradients).items():
            assert_close(gradient, theirs[place], f"{how} {place}", floor=0.01 * largest)
    rough = scores(architecture, params, batch, Compute(dtype="bfloat16"))
    assert rough.dtype == np.float32
    assert 1e-5 < np.abs(rough - found).max() < 0.1 * np.abs(found).max()


def assert_loads_what_transformers_writes(architecture, folder: Path) -> None:
    """A folder that `save_pretrained` wrote of random weights comes in and scores the same."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from tests.models.torch_rewards import reference

    exported(folder / "ours", architecture)
    config = AutoConfig.from_pretrained(folder / "ours")
    AutoModelForSequenceClassification.from_config(config).save_pretrained(
        folder / "theirs", max_shard_size="8KB"
    )
    assert len(list((folder / "theirs").glob("*.safetensors"))) > 1
    assert reward.read_reward_architecture(folder / "theirs") == architecture
    _, params = reward.load(folder / "theirs")
    data = texts(architecture)
    theirs = reference(folder / "theirs", data, cotangent(data)).scores
    assert_close(scores(architecture, params, laid(data, packed=True)), theirs)
