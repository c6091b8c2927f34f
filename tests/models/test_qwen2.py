"""The forward and backward pass equal those of transformers, padded and packed."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.models import convert, tensor_table
from tests.golden.make_qwen2_golden import FILE as GOLDEN
from tests.golden.make_qwen2_golden import NAMES
from tests.models.qwen2_models import (
    SHAPES,
    TINY,
    from_folder,
    hidden,
    logits_and_gradients,
    random_model,
    random_params,
    rows,
)
from tests.models.torch_reference import reference

TOLERANCE = 2e-5  # relative to the largest entry; 1e-4 is what was promised


def assert_close(ours, theirs, name: str = "") -> None:
    """Equal but for float32 rounding."""
    error = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
    assert error < TOLERANCE, f"{name}: {error}"


def assert_same_gradients(ours: convert.Params, theirs, architecture) -> None:
    """Compares tensor by tensor, under Hugging Face's names."""
    ours_by_place = tensor_table.by_place(ours)
    names = []
    for place, entry in convert.entries(architecture).items():
        stacked = ours_by_place[place] if entry.is_stacked else [ours_by_place[place]]
        for name, gradient in zip(entry.names, stacked, strict=True):
            names.append(name)
            assert_close(gradient.T if entry.is_transposed else gradient, theirs[name], name)
    assert sorted(names) == sorted(theirs)


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_gradients_equal_the_golden_ones(name, tmp_path):
    with np.load(GOLDEN) as file:
        arrays = {k.removeprefix(f"{name}/"): file[k] for k in file if k.startswith(f"{name}/")}
    for key in ("model.safetensors", "config.json"):
        (tmp_path / key).write_bytes(arrays[f"file/{key}"].tobytes())
    model = from_folder(tmp_path)
    mask = arrays["mask"]
    logits, gradients = logits_and_gradients(model, arrays["tokens"], mask, arrays["cotangent"])
    assert_close(logits[mask == 1], arrays["logits"][mask == 1])
    theirs = {k.removeprefix("gradient/"): v for k, v in arrays.items() if "gradient/" in k}
    assert_same_gradients(gradients, theirs, model.architecture)


@pytest.mark.oracle
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("architecture", SHAPES.values(), ids=SHAPES)
def test_logits_and_gradients_equal_those_of_transformers(architecture, padding, tmp_path):
    pytest.importorskip("torch")
    convert.save(tmp_path, random_params(architecture), architecture, dtype="float32")
    tokens, mask, cotangent = rows(architecture, padding=padding)
    theirs = reference(tmp_path, tokens, mask, cotangent)
    model = from_folder(tmp_path)
    logits, gradients = logits_and_gradients(model, tokens, mask, cotangent)
    assert_close(logits[mask == 1], theirs.logits[mask == 1])
    assert_same_gradients(gradients, theirs.gradients, architecture)


@pytest.mark.oracle
@pytest.mark.parametrize("architecture", SHAPES.values(), ids=SHAPES)
def test_what_transformers_saves_comes_in(architecture, tmp_path):
    pytest.importorskip("torch")
    from transformers import Qwen2Config, Qwen2ForCausalLM

    export, saved = tmp_path / "export", tmp_path / "saved"
    export.mkdir()
    convert.save(export, random_params(architecture), architecture, dtype="float32")
    Qwen2ForCausalLM(Qwen2Config.from_pretrained(export)).save_pretrained(
        saved, max_shard_size="8KB"
    )
    assert len(list(saved.glob("*.safetensors"))) > 1
    assert convert.read_architecture(saved) == architecture
    tokens, mask, cotangent = rows(architecture, padding="right")
    theirs = reference(saved, tokens, mask, cotangent)
    ours, _ = logits_and_gradients(from_folder(saved), tokens, mask, cotangent)
    assert_close(ours[mask == 1], theirs.logits[mask == 1])


@pytest.mark.oracle
def test_an_export_has_the_files_that_save_pretrained_writes(tmp_path):
    pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    convert.save(ours, random_params(), TINY, stop_ids=[2, 3], pad_id=0)
    model = AutoModelForCausalLM.from_pretrained(ours)
    assert str(model.dtype) == "torch.bfloat16"
    assert model.generation_config.eos_token_id == [2, 3]
    model.save_pretrained(theirs)
    names = lambda folder: sorted(path.name for path in Path(folder).iterdir())
    assert names(ours) == names(theirs)


def packed_rows() -> tuple[jnp.ndarray, jnp.ndarray, jnp.ndarray]:
    """Tokens, segments and positions: lengths 9, 4 and 7 in two rows of 14, then padding."""
    tokens, _, _ = rows(TINY, padding="right")
    pieces = [(1, tokens[0, :9]), (2, tokens[1, :4]), (3, tokens[2, :7])]
    out = np.zeros((3, 2, 14), np.int32)
    for row, start, (segment, ids) in zip((0, 0, 1), (0, 9, 0), pieces, strict=True):
        place = (row, slice(start, start + len(ids)))
        out[(0, *place)], out[(1, *place)], out[(2, *place)] = ids, segment, np.arange(len(ids))
    tokens_RT, segments_RT, positions_RT = map(jnp.asarray, out)
    return tokens_RT, segments_RT, positions_RT


def test_packed_rows_give_what_rows_of_their_own_give():
    model = random_model()
    tokens, mask, _ = rows(TINY, padding="right")
    apart = hidden(model, tokens, mask)
    tokens_RT, segments_RT, positions_RT = packed_rows()
    packed = hidden(model, tokens_RT, segments_RT, positions_RT)
    for row, length in enumerate(mask.sum(-1)):
        assert_close(packed[segments_RT == row + 1], apart[row, :length])


@pytest.mark.parametrize("remat", ["none", "full"])
def test_no_segment_sees_another(remat):
    model = random_model()
    model.compute = dataclasses.replace(model.compute, remat=remat)
    tokens, segments, positions = packed_rows()
    before = hidden(model, tokens, segments, positions)
    for segment in (0, 1, 2, 3):
        changed = jnp.where(segments == segment, (tokens + 5) % TINY.vocabulary, tokens)
        after = hidden(model, changed, segments, positions)
        others = np.asarray(segments != segment)
        np.testing.assert_array_equal(after[others], before[others])
        assert (after[~others] != before[~others]).any(-1).all()


def test_no_token_sees_a_later_one():
    model = random_model()
    tokens = jnp.asarray(rows(TINY, padding="right")[0])
    before = hidden(model, tokens)
    after = hidden(model, tokens.at[:, 5].set((tokens[:, 5] + 1) % TINY.vocabulary))
    np.testing.assert_array_equal(after[:, :5], before[:, :5])
    assert (after[:, 5:] != before[:, 5:]).any(-1).all()


def test_positions_matter_only_by_their_differences():
    model = random_model()
    tokens = jnp.asarray(rows(TINY, padding="right")[0])
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    here, there = (hidden(model, tokens, None, positions + shift) for shift in (0, 20))
    assert_close(here, there)
    assert np.abs(hidden(model, tokens, None, 2 * positions) - here).max() > 1e-2


@pytest.mark.parametrize("unroll", [0, 2])
def test_unrolling_changes_nothing(unroll):
    model = random_model()
    tokens = jnp.asarray(rows(TINY, padding="right")[0])
    rolled = hidden(model, tokens)
    model.compute = dataclasses.replace(model.compute, unroll=unroll)
    assert_close(hidden(model, tokens), rolled)


def test_the_remat_policy_changes_no_gradient():
    inputs = rows(TINY, padding="right")
    model = random_model()
    _, kept = logits_and_gradients(model, *inputs)
    for remat in ("dots", "full"):
        model.compute = dataclasses.replace(model.compute, remat=remat)
        _, again = logits_and_gradients(model, *inputs)
        theirs = tensor_table.by_place(kept)
        for place, gradient in tensor_table.by_place(again).items():
            assert_close(gradient, np.asarray(theirs[place]), str(place))
