"""Adapters do what PEFT's do, and go to its files and back."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rlft_jax.models import convert, lora, peft, tensor_table
from rlft_jax.models.lora import LoRAParam
from rlft_jax.models.qwen2 import Qwen2
from tests.models.qwen2_models import (
    TINY,
    from_params,
    hidden,
    logits_and_gradients,
    random_model,
    random_params,
    rows,
)

CASES = {
    "all": lora.Settings(rank=4, alpha=8.0),
    "rsLoRA": lora.Settings(rank=4, alpha=8.0, rslora=True),
    "queries and values": lora.Settings(rank=2, alpha=3.0, targets=("q_proj", "v_proj")),
}
# PEFT asks transformers by a name that is on its way out.
PEFT_WARNS = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
TOKENS, MASK, COTANGENT = rows(TINY, padding="right")


def adapted(settings: lora.Settings, *, b: float = 0.3) -> tuple[Qwen2, convert.Params]:
    """A random model with a random adapter, and the adapter's parameters."""
    model = random_model()
    lora.add(model, settings, key=jax.random.key(0))
    graph, adapter, base = nnx.split(model, LoRAParam, ...)
    rng = np.random.default_rng(3)
    shift = lambda x: x + b * rng.standard_normal(x.shape, np.float32)
    adapter = jax.tree.map(shift, adapter) if b else adapter
    return nnx.merge(graph, adapter, base), nnx.to_pure_dict(adapter)


def logits(model: Qwen2) -> np.ndarray:
    """Logits at all tokens, `[n, V]`."""
    return np.asarray(model.unembed(jnp.asarray(hidden(model, TOKENS, MASK)[MASK == 1])))


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal but for float32 rounding."""
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 2e-5


def test_a_new_adapter_changes_nothing():
    model, _ = adapted(lora.Settings(rank=4, alpha=32.0), b=0.0)
    np.testing.assert_array_equal(hidden(model, TOKENS), hidden(random_model(), TOKENS))


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_merging_changes_no_logit(settings):
    model, adapter = adapted(settings)
    merged = from_params(TINY, peft.merge(random_params(), adapter, scale=settings.scale))
    assert np.abs(logits(model) - logits(random_model())).max() > 0.1
    assert_close(logits(merged), logits(model))


def test_merging_adds_in_float32_and_keeps_the_kernels_type():
    base = jax.tree.map(lambda x: x.astype(jnp.bfloat16), random_params())
    _, adapter = adapted(CASES["all"])
    merged = peft.merge(base, adapter, scale=2.0)
    a, b = (np.asarray(adapter["layers"]["mlp"]["up"]["lora"][side]) for side in ("a", "b"))
    kernel = np.asarray(base["layers"]["mlp"]["up"]["kernel"])
    expected = (kernel.astype(np.float32) + 2.0 * (a @ b)).astype(kernel.dtype)
    difference = np.asarray(merged["layers"]["mlp"]["up"]["kernel"]) != expected
    assert merged["layers"]["mlp"]["up"]["kernel"].dtype == jnp.bfloat16
    assert difference.mean() < 1e-3  # the order of sums decides a tie now and then


def test_the_scale_is_alpha_over_rank_or_its_root():
    assert lora.Settings(rank=4, alpha=8.0).scale == 2
    assert lora.Settings(rank=4, alpha=8.0, rslora=True).scale == 4
    model, _ = adapted(CASES["rsLoRA"])
    assert model.layers.mlp.down.lora.scale == 4


def test_dropout_acts_only_with_a_key_and_only_on_adapters():
    model, _ = adapted(dataclasses.replace(CASES["all"], dropout=0.5))
    still = hidden(model, TOKENS)
    np.testing.assert_array_equal(hidden(model, TOKENS), still)
    model.dropout_key = jax.random.key(1)
    assert np.abs(hidden(model, TOKENS) - still).max() > 0.1
    untouched, _ = adapted(dataclasses.replace(CASES["all"], dropout=0.5), b=0.0)
    untouched.dropout_key = jax.random.key(1)
    np.testing.assert_array_equal(hidden(untouched, TOKENS), hidden(random_model(), TOKENS))


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_an_adapter_comes_back(settings, tmp_path):
    _, adapter = adapted(settings)
    peft.save(tmp_path, adapter, settings, base="nobody/nothing")
    again, loaded = peft.load(tmp_path, TINY)
    assert again == dataclasses.replace(settings, targets=settings.names)
    jax.tree.map(np.testing.assert_array_equal, loaded, adapter)


def test_targets_that_are_no_projections_are_refused():
    for targets in ("lm_head", ("lm_head",), ("q_proj", "embed_tokens"), ()):
        with pytest.raises(ValueError, match="cannot be adapted; choose among q_proj, k_proj"):
            lora.add(random_model(), lora.Settings(targets=targets), key=jax.random.key(0))


REFUSED = {
    "DoRA": ({"use_dora": True}, ["use_dora = True is not implemented"]),
    "several at once": (
        {
            "bias": "all",
            "modules_to_save": ["lm_head"],
            "rank_pattern": {"q_proj": 8},
            "peft_type": "LOHA",
            "task_type": "SEQ_CLS",
            "init_lora_weights": "pissa",
            "r": 0,
        },
        [
            "bias = 'all'",
            "modules_to_save = ['lm_head']",
            "rank_pattern",
            "peft_type = 'LOHA'",
            "task_type = 'SEQ_CLS'",
            "init_lora_weights = 'pissa'",
            "r = 0, not a positive number",
        ],
    ),
    "a setting of the future": ({"use_something": 1}, ["use_something = 1 is not implemented"]),
    "another rank": ({"r": 3}, ["q_proj.lora_A.weight is [2, 16], not [3, 16]"]),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED)
def test_adapters_beyond_plain_lora_are_refused(changes, said, tmp_path):
    settings = CASES["queries and values"]
    peft.save(tmp_path, adapted(settings)[1], settings)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ValueError, match="is not an adapter of this model") as refusal:
        peft.load(tmp_path, TINY)
    assert [part for part in said if part not in str(refusal.value)] == []


def test_adapters_of_the_embedding_and_incomplete_ones_are_refused(tmp_path):
    from safetensors.numpy import load_file, save_file

    settings = CASES["queries and values"]
    peft.save(tmp_path, adapted(settings)[1], settings)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    layer = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    del tensors[layer]
    zeros = np.zeros((2, 16), np.float32)
    tensors |= {"base_model.model.lm_head.lora_A.weight": zeros, "base_model.odd.weight": zeros}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="is not an adapter of this model") as refusal:
        peft.load(tmp_path, TINY)
    for said in (
        f"{layer} is missing",
        "lm_head.lora_A.weight adapts the embedding or the head",
        "base_model.odd.weight is not part of an adapter",
    ):
        assert said in str(refusal.value)


def test_a_pickled_adapter_is_refused(tmp_path):
    peft.save(tmp_path, adapted(CASES["all"])[1], CASES["all"])
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"as pickle \(adapter_model.bin\)"):
        peft.load(tmp_path, TINY)


def base_folder(folder: Path) -> Path:
    """The random model as Hugging Face has it."""
    folder.mkdir()
    convert.save(folder, random_params(), TINY, dtype="float32")
    return folder


def peft_logits(model) -> np.ndarray:
    """Logits of a torch model at all tokens."""
    import torch

    with torch.no_grad():
        tokens, mask = torch.tensor(TOKENS).long(), torch.tensor(MASK)
        return model.eval()(input_ids=tokens, attention_mask=mask).logits.numpy()[MASK == 1]


@pytest.mark.oracle
@PEFT_WARNS
@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_peft_gives_our_adapter_the_same_logits(settings, tmp_path):
    pytest.importorskip("torch")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, adapter = adapted(settings)
    (tmp_path / "adapter").mkdir()
    peft.save(tmp_path / "adapter", adapter, settings)
    base = AutoModelForCausalLM.from_pretrained(base_folder(tmp_path / "base"))
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert_close(logits(model), peft_logits(theirs))
    assert_close(logits(model), peft_logits(theirs.merge_and_unload()))


@pytest.mark.oracle
@PEFT_WARNS
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_an_adapter_of_pefts_gives_us_the_same_logits_and_gradients(targets, tmp_path):
    torch = pytest.importorskip("torch")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(base_folder(tmp_path / "base"))
    config = LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=targets)
    theirs = get_peft_model(base, config)
    torch.manual_seed(0)
    trained = {n: p for n, p in theirs.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path / "adapter")
    settings, adapter = peft.load(tmp_path / "adapter", TINY)
    model = random_model()
    lora.add(model, settings, key=jax.random.key(0))
    graph, state, frozen = nnx.split(model, LoRAParam, ...)
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, adapter))
    model = nnx.merge(graph, state, frozen)
    assert_close(logits(model), peft_logits(theirs))

    mask = torch.tensor(MASK)
    out = theirs(input_ids=torch.tensor(TOKENS).long(), attention_mask=mask).logits
    (out * torch.tensor(COTANGENT) * mask[..., None]).sum().backward()
    _, gradients = logits_and_gradients(model, TOKENS, MASK, COTANGENT)
    by_place = tensor_table.by_place(gradients)
    for target in settings.targets:
        for side in ("a", "b"):
            ours = by_place["layers", *lora.PROJECTIONS[target], "lora", side]
            for layer in range(TINY.layers):
                name = f".{layer}.{'mlp' if 'mlp' in lora.PROJECTIONS[target] else 'self_attn'}"
                name += f".{target}.lora_{side.upper()}."
                (theirs_grad,) = (p.grad.numpy() for n, p in trained.items() if name in n)
                assert_close(np.asarray(ours[layer]).T, theirs_grad)
