"""Our losses of pairs are TRL's, and so are their gradients."""

import functools
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rlft_jax.batch import pack
from rlft_jax.logprobs import response_logprobs
from rlft_jax.objectives import dpo
from rlft_jax.packing import first_fit
from rlft_jax.training.step import score_step
from tests import tiny

# Their trainers for SimPO and ORPO say at every import that they may change.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from trl.experimental.cpo import CPOConfig, CPOTrainer  # noqa: E402
from trl.experimental.orpo import ORPOConfig, ORPOTrainer  # noqa: E402

from tests.objectives import trl_models  # noqa: E402

# Warnings of theirs are theirs.
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
PAIRS = 4
RESPONSES = tiny.responses(prompts=PAIRS, group=2, scored=False)
POLICY, REFERENCE = tiny.policy(seed=0), tiny.policy(seed=1)


def ours(responses=RESPONSES, **settings: Any) -> tuple[Any, dict]:
    """Gradient and metrics, over two micro-batches of packed rows."""
    packing = first_fit(responses.lengths, tokens=16)
    batch = jax.tree.map(jax.numpy.asarray, pack(responses, packing))
    rows = score_step(REFERENCE.params, {}, batch, graph=REFERENCE.graph, score=response_logprobs)
    known = packing.lift(np.asarray(rows), responses.tokens.shape[-1])
    scored = responses._replace(reference_logprobs=known)
    objective = functools.partial(dpo.objective, **settings)
    return tiny.gradient(POLICY, objective, tiny.batch_of(scored, micro_batches=2))


def theirs(folder: Path, kind: Any, config: Any, settings: dict, **models: Any) -> Any:
    """A trainer of theirs on our policy."""
    path = trl_models.save(POLICY.params, tiny.ARCHITECTURE, folder / "policy")
    row = {"prompt": ["w1 w2"], "chosen": ["w3 w4"], "rejected": ["w5 w6"]}
    return kind(
        model=trl_models.load(path),
        args=config(output_dir=str(folder / "run"), **settings, **trl_models.QUIET),
        train_dataset=Dataset.from_dict(row),
        processing_class=AutoTokenizer.from_pretrained(path),
        **models,
    )


def tensors(which: list[int], side: int, responses=RESPONSES) -> dict[str, Any]:
    """Ids, and where there are tokens and answers, of one side of some pairs."""
    T = responses.tokens.shape[-1]
    lengths = torch.tensor(responses.lengths[which, side]).long()
    return {
        "input_ids": torch.tensor(responses.tokens[which, side]).long(),
        "attention_mask": (torch.arange(T) < lengths[:, None]).long(),
        "completion_mask": torch.tensor(responses.is_response[which, side]).long(),
    }


# Their names and settings, and ours.
CASES = {
    "sigmoid": (dict(loss_type="sigmoid"), dict(loss="sigmoid")),
    "ipo": (dict(loss_type="ipo", beta=0.4), dict(loss="ipo", beta=0.4)),
    "hinge": (dict(loss_type="hinge"), dict(loss="hinge")),
    "robust": (
        dict(loss_type="robust", label_smoothing=0.2),
        dict(loss="robust", label_smoothing=0.2),
    ),
    "sigmoid_norm": (dict(loss_type="sigmoid_norm", beta=5.0), dict(loss="sigmoid_norm", beta=5.0)),
    "apo_zero": (dict(loss_type="apo_zero", beta=0.3), dict(loss="apo_zero", beta=0.3)),
    "sft": (dict(loss_type="sft"), dict(loss="sft")),
    "several": (
        dict(loss_type=["sigmoid", "sft", "ipo"], loss_weights=[1.0, 0.2, 0.5]),
        dict(loss={"sigmoid": 1.0, "sft": 0.2, "ipo": 0.5}),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_losses_gradients_and_metrics_are_theirs(name, tmp_path):
    """Pair by pair, for their imitation is a mean over a micro-batch's tokens."""
    for_them, for_us = CASES[name]
    other = trl_models.save(REFERENCE.params, tiny.ARCHITECTURE, tmp_path / "reference")
    trainer = theirs(
        tmp_path, trl.DPOTrainer, trl.DPOConfig, for_them, ref_model=trl_models.load(other)
    )
    trainer.model.train()
    loss = 0.0
    for b in range(PAIRS):
        sides = [tensors([b], side) for side in (0, 1)]
        inputs = {key: torch.cat([side[key] for side in sides]) for key in sides[0]}
        share = trainer._compute_loss(trainer.model, inputs, return_outputs=False) / PAIRS
        share.backward()
        loss += float(share.detach())
    gradient, metrics = ours(**for_us)
    np.testing.assert_allclose(metrics["loss"].value, loss, rtol=2e-6)
    expected = trl_models.gradients(trainer.model, tiny.ARCHITECTURE)
    assert tiny.distance(gradient, expected) < 2e-6
    names = ["logps/chosen", "logps/rejected"]
    if dpo.needs_reference(for_us):  # imitation alone has no reward to compare
        rewards = ("chosen", "rejected", "accuracies", "margins")
        names += [f"rewards/{each}" for each in rewards]
    for metric in names:
        mean = np.mean(trainer._metrics["train"][metric])
        np.testing.assert_allclose(metrics[metric].value, mean, rtol=1e-5, atol=1e-6)


def of_two_sided(trainer: Any, responses=RESPONSES) -> float:
    """Loss and, in the model, gradient of the trainers that take both sides apart, pair by pair."""
    loss = 0.0
    for b in range(len(responses.tokens)):
        batch = {}
        for side, name in enumerate(("chosen", "rejected")):
            of_side = tensors([b], side, responses)
            is_answer = of_side["completion_mask"] == 1
            batch[f"{name}_input_ids"] = of_side["input_ids"]
            batch[f"{name}_attention_mask"] = of_side["attention_mask"]
            batch[f"{name}_labels"] = torch.where(is_answer, of_side["input_ids"], -100)
        share, _ = trainer.get_batch_loss_metrics(trainer.model, batch)
        share = share / len(responses.tokens)
        share.backward()
        loss += float(share.detach())
    return loss


def test_simpo_is_theirs(tmp_path):
    settings = dict(loss_type="simpo", beta=2.0, simpo_gamma=0.7, cpo_alpha=0.0)
    trainer = theirs(tmp_path, CPOTrainer, CPOConfig, settings)
    loss = of_two_sided(trainer)
    gradient, metrics = ours(loss="simpo", beta=2.0, gamma=0.7)
    np.testing.assert_allclose(metrics["loss"].value, loss, rtol=2e-6)
    expected = trl_models.gradients(trainer.model, tiny.ARCHITECTURE)
    assert tiny.distance(gradient, expected) < 2e-6


def test_orpo_is_theirs_after_a_prompt_of_one_token(tmp_path):
    """They imitate the prompt too, from its second token on."""
    t = np.arange(RESPONSES.tokens.shape[-1])
    is_response = (t > 0) & (t < RESPONSES.lengths[..., None])
    short = RESPONSES._replace(is_response=is_response)
    trainer = theirs(tmp_path, ORPOTrainer, ORPOConfig, dict(beta=0.25))
    loss = of_two_sided(trainer, short)
    gradient, metrics = ours(short, loss="orpo", beta=0.25)
    np.testing.assert_allclose(metrics["loss"].value, loss, rtol=2e-6)
    expected = trl_models.gradients(trainer.model, tiny.ARCHITECTURE)
    assert tiny.distance(gradient, expected) < 2e-6
