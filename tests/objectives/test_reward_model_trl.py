"""Our Bradley-Terry loss is that of TRL's RewardTrainer, gradients of the networks included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from rlft_jax.models import reward
from rlft_jax.objectives import reward_model
from rlft_jax.packing import first_fit
from rlft_jax.texts import pack
from tests import tiny
from tests.models import reward_models

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402

from tests.objectives import trl_models  # noqa: E402

# Warnings of theirs are theirs.
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
TEXTS = reward_models.texts(lengths=((20, 3), (9, 14), (1, 24), (7, 7)))
TEXTS = TEXTS._replace(types=np.zeros_like(TEXTS.types))
MARGINS = np.array([0.5, 0.0, 2.0, 1.0], np.float32)


def theirs(folder, architecture, *, margins, center_weight) -> tuple[float, dict, dict]:
    """Loss, gradients by our names, and metrics of TRL."""
    trl_models.save_tokenizer(folder, architecture.vocabulary, pad_id=0)  # in none of the texts
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    trainer = trl.RewardTrainer(
        model=model,
        args=trl.RewardConfig(
            output_dir=str(folder / "run"),
            center_rewards_coefficient=center_weight or None,
            **trl_models.QUIET,
        ),
        train_dataset=Dataset.from_dict({"chosen_ids": [[1, 2]], "rejected_ids": [[1, 3]]}),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    order = lambda x: torch.tensor(np.concatenate([x[:, 0], x[:, 1]])).long()
    mask = np.arange(TEXTS.tokens.shape[-1]) < TEXTS.lengths[..., None]
    inputs = {"input_ids": order(TEXTS.tokens), "attention_mask": order(mask)}
    if margins is not None:
        inputs["margin"] = torch.tensor(margins)
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    found = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}

    def ours(entry):
        parts = [found[name].T if entry.is_transposed else found[name] for name in entry.names]
        return np.stack(parts) if entry.is_stacked else parts[0]

    table = reward_models.table_of(architecture)
    gradient = unflatten_dict({place: ours(entry) for place, entry in table.items()})
    (logged,) = (mode for mode in trainer._metrics.values() if "accuracy" in mode)
    return float(loss.detach()), gradient, {name: value[-1] for name, value in logged.items()}


@pytest.mark.parametrize("kind", reward_models.ONE_OF_EACH)
@pytest.mark.parametrize(
    ("margins", "center_weight"), [(None, 0.0), (MARGINS, 0.0), (MARGINS, 0.01)]
)
def test_loss_and_gradient_are_theirs(kind, margins, center_weight, tmp_path):
    architecture = reward_models.ONE_OF_EACH[kind]
    params = reward_models.exported(tmp_path, architecture)
    loss, expected, logged = theirs(
        tmp_path, architecture, margins=margins, center_weight=center_weight
    )
    graph, _ = reward.structure(architecture)
    texts = TEXTS._replace(margins=margins)
    packing = first_fit(texts.lengths, tokens=32, micro_batches=2)
    batch = jax.tree.map(jnp.asarray, pack(texts, packing))
    objective = functools.partial(reward_model.objective, center_weight=center_weight)
    gradient, metrics = tiny.gradient(tiny.Policy(graph, params, {}), objective, batch)
    np.testing.assert_allclose(metrics["loss"].value, loss, rtol=1e-5)
    assert tiny.distance(gradient, expected) < 1e-5
    for name in ("accuracy", "margin", "mean_reward"):
        np.testing.assert_allclose(metrics[name].value, logged[name], rtol=1e-5, atol=1e-6)
