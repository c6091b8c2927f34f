"""The `trl` preset is TRL's RLOOTrainer: advantages, losses and gradients."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.batch import Responses, pack
from rlft_jax.logprobs import response_logprobs
from rlft_jax.objectives import rloo
from rlft_jax.packing import first_fit
from rlft_jax.rollout import rollout_metrics
from rlft_jax.training.step import score_step
from tests import tiny

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from tests.objectives import trl_models  # noqa: E402

# Warnings of theirs are theirs.
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
PROMPTS, GROUP = 3, 4
RESPONSES = tiny.responses(prompts=PROMPTS, group=GROUP, scored=False)
REWARDS = np.random.default_rng(5).standard_normal((PROMPTS, GROUP)).astype(np.float32)
REWARDS[1] = 0.25  # a group that teaches nothing, but for its KL


class Theirs:
    """A trainer whose samples are ours."""

    def __init__(self, folder: Path, policy: tiny.Policy, reference: tiny.Policy, **settings: Any):
        path = trl_models.save(policy.params, tiny.ARCHITECTURE, folder / "policy")
        self.trainer = trl.RLOOTrainer(
            model=trl_models.load(path),
            reward_funcs=lambda completions, **_: REWARDS.ravel().tolist(),
            args=trl.RLOOConfig(
                output_dir=str(folder / "run"),
                per_device_train_batch_size=PROMPTS * GROUP,
                num_generations=GROUP,
                disable_dropout=True,
                **settings,
                **trl_models.QUIET,
            ),
            train_dataset=Dataset.from_dict({"prompt": ["w1"] * 12}),
            processing_class=AutoTokenizer.from_pretrained(path),
        )
        if self.trainer.ref_model is not None:
            other = trl_models.save(reference.params, tiny.ARCHITECTURE, folder / "reference")
            self.trainer.ref_model.load_state_dict(trl_models.load(other).state_dict())
        self.trainer._generate = self._generate
        self.trainer.model.train()

    def _generate(self, prompts: list[str]) -> tuple[list, list, list]:
        assert len(prompts) == PROMPTS * GROUP
        prompt_ids, completion_ids = [], []
        for b, g in np.ndindex(PROMPTS, GROUP):
            tokens = RESPONSES.tokens[b, g, : RESPONSES.lengths[b, g]]
            is_response = RESPONSES.is_response[b, g, : RESPONSES.lengths[b, g]]
            prompt_ids.append(tokens[~is_response].tolist())
            completion_ids.append(tokens[is_response].tolist())
        return prompt_ids, completion_ids, ["w2"] * len(prompts)

    def rollout(self) -> dict[str, Any]:
        """What they make of the samples."""
        return self.trainer._generate_and_score_completions([{"prompt": "w1"}] * PROMPTS * GROUP)

    def loss_and_gradient(self, rollout: dict[str, Any]) -> tuple[float, Any]:
        """Of the whole rollout."""
        loss = self.trainer._compute_loss(self.trainer.model, rollout)
        loss.backward()
        gradient = trl_models.gradients(self.trainer.model, tiny.ARCHITECTURE)
        return float(loss.detach()), gradient


def ours(policy: tiny.Policy, reference: tiny.Policy, temperature: float, **settings) -> Responses:
    """What we make of the samples."""

    def logprobs(of: tiny.Policy) -> np.ndarray:
        packing = first_fit(RESPONSES.lengths, tokens=16)
        batch = jax.tree.map(jnp.asarray, pack(RESPONSES, packing))
        score = functools.partial(response_logprobs, temperature=temperature)
        rows = score_step(of.params, {}, batch, graph=of.graph, score=score)
        return packing.lift(np.asarray(rows), RESPONSES.tokens.shape[-1])

    old, reference_logprobs = logprobs(policy), logprobs(reference)
    return RESPONSES._replace(
        old_logprobs=old,
        sampled_logprobs=old,
        advantages=rloo.advantages(
            REWARDS, RESPONSES.is_response, old, reference_logprobs, **settings
        ),
    )


CASES = {
    "defaults": (dict(), dict()),
    "without KL": (dict(beta=0.0), dict(kl_weight=0.0)),
    "normalised": (dict(normalize_advantages=True), dict(normalize=True)),
    "bounded rewards": (dict(reward_clip_range=(-0.5, 0.5)), dict(reward_clip=0.5)),
    "at temperature .7": (dict(temperature=0.7), dict()),
}


@pytest.mark.parametrize("name", CASES)
def test_advantages_losses_and_gradients_are_theirs(name, tmp_path):
    """At the update of a fresh rollout, and at one after the policy has moved far."""
    for_them, for_us = CASES[name]
    temperature = for_them.get("temperature", 1.0)
    preset = rloo.PRESETS["trl"]
    before, reference, after = tiny.policy(seed=0), tiny.policy(seed=1), moved(tiny.policy(seed=0))
    theirs = Theirs(tmp_path, before, reference, **for_them)
    rollout = theirs.rollout()
    made = ours(before, reference, temperature, **{**preset["advantages"], **for_us})
    advantages = np.take_along_axis(
        made.advantages, made.is_response.argmax(-1)[..., None], axis=-1
    ).ravel()
    np.testing.assert_allclose(advantages, rollout["advantages"], rtol=1e-5, atol=2e-6)
    assert np.abs(advantages).max() > 0.3

    objective = functools.partial(rloo.objective, temperature=temperature, **preset["objective"])
    batch = tiny.batch_of(made)
    for policy in (before, after):
        if policy is after:
            path = trl_models.save(after.params, tiny.ARCHITECTURE, tmp_path / "after")
            theirs.trainer.model.load_state_dict(trl_models.load(path).state_dict())
            theirs.trainer.model.zero_grad()
        loss, expected = theirs.loss_and_gradient(rollout)
        gradient, metrics = tiny.gradient(policy, objective, batch)
        np.testing.assert_allclose(metrics["loss"].value, loss, rtol=1e-5, atol=2e-6)
        assert tiny.distance(gradient, expected) < 1e-5
        logged = theirs.trainer._metrics["train"]
        for name in ("entropy", *(f"clip_ratio/{side}_mean" for side in ("low", "high", "region"))):
            np.testing.assert_allclose(metrics[name].value, logged[name][-1], rtol=1e-5)
    assert 0 < logged["clip_ratio/region_mean"][-1] < 1


def test_what_is_said_of_rewards_is_what_they_say(tmp_path):
    policy = tiny.policy()
    theirs = Theirs(tmp_path, policy, policy, beta=0.0)
    theirs.rollout()
    lengths = RESPONSES.is_response.sum(-1)
    ended, repeated = np.ones(lengths.shape, bool), np.zeros(lengths.shape)
    metrics = rollout_metrics(REWARDS, lengths, ended, repeated, {"<lambda>": REWARDS.ravel()})
    logged = theirs.trainer._metrics["train"]
    for name in metrics.keys() - {name for name in metrics if name.startswith("completions/")}:
        np.testing.assert_allclose(metrics[name], logged[name][-1], rtol=1e-6)


def moved(policy: tiny.Policy) -> tiny.Policy:
    """A policy some updates later: far enough for some ratios to be clipped, not all."""
    rng = np.random.default_rng(7)
    move = lambda x: x + 0.004 * rng.standard_normal(x.shape).astype(np.float32)
    return policy._replace(params=jax.tree.map(move, policy.params))
