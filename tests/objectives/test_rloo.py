"""Facts about REINFORCE leave-one-out as a loss, and the numbers of four definitions of it."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.batch import Batch, Responses
from rlft_jax.logprobs import response_logprobs
from rlft_jax.models.head import Scores
from rlft_jax.models.qwen2 import Architecture
from rlft_jax.objectives import rloo
from tests import tiny

RESPONSES = tiny.responses(prompts=4, group=3)
POLICY = tiny.policy()
RATIOS = {
    ratio: functools.partial(rloo.objective, ratio=ratio) for ratio in ("none", "sequence", "token")
}
GOLDEN = dict(np.load(pathlib.Path(__file__).parents[1] / "golden" / "rloo.npz"))


def of_logprobs(batch: Batch, logp: Any, monkeypatch, **settings: Any):
    """Loss, its gradient by log-probabilities, and metrics, where the policy is a table of them."""
    batch = tiny.first_micro_batch(batch)

    def loss(logp):
        scores = Scores(logp, jnp.zeros_like(logp), jnp.zeros_like(logp, bool))
        with monkeypatch.context() as patch:
            patch.setattr(rloo, "token_scores", lambda *_, **__: scores)
            metrics = rloo.objective(POLICY.model, batch, **settings)
        return metrics["loss"].value, metrics

    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(logp))
    return value, gradient, metrics


def uniform(**changes: Any) -> Responses:
    """Two prompts, two responses of three tokens after a prompt of one, old log-probability -1."""
    is_response = np.broadcast_to(np.arange(4) > 0, (2, 2, 4))
    field = lambda x: np.where(is_response, np.float32(x), 0).astype(np.float32)
    made = Responses(np.ones((2, 2, 4), np.int32), is_response, np.full((2, 2), 4, np.int32))
    defaults = dict(advantages=1.0, sampled_logprobs=-1.0, old_logprobs=-1.0)
    values = {**defaults, **changes}
    return made._replace(**{k: v if v is None else field(v) for k, v in values.items()})


def rows_of(made: Responses) -> Batch:
    """One response a row."""
    return tiny.batch_of(made, tokens=4, packed=False)


@pytest.mark.parametrize("name", rloo.PRESETS)
class TestGolden:
    """Against numbers that loops in float64 worked out from the formulas."""

    def made(self, name: str) -> Responses:
        g = GOLDEN
        advantages = rloo.advantages(
            g["rewards"],
            g["is_response"],
            g["old"],
            g["reference"],
            **rloo.PRESETS[name]["advantages"],
        )
        return Responses(
            tokens=g["tokens"].astype(np.int32),
            is_response=g["is_response"],
            lengths=g["lengths"].astype(np.int32),
            advantages=advantages,
            sampled_logprobs=g["old"],
            old_logprobs=g["old"],
            reference_logprobs=g["reference"],
        )

    def test_advantages(self, name):
        actual = self.made(name).advantages
        np.testing.assert_allclose(actual, GOLDEN[f"{name}/advantages"], rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("micro_batches", [1, 3])
    def test_losses_and_gradients_by_parameters(self, name, micro_batches):
        policy = bigram()
        objective = functools.partial(
            rloo.objective, temperature=0.7, **rloo.PRESETS[name]["objective"]
        )
        batch = tiny.batch_of(self.made(name), tokens=12, micro_batches=micro_batches)
        gradient, metrics = tiny.gradient(policy, objective, batch)
        # The loss is a small sum of large terms: as close as log-probabilities of float32 allow.
        allowed = 1e-6 * np.abs(GOLDEN[f"{name}/gradient/logprobs"]).sum()
        np.testing.assert_allclose(
            metrics["loss"].value, GOLDEN[f"{name}/loss"], rtol=0, atol=allowed
        )
        ours = {
            "embed": gradient["embed"]["embedding"],
            "scale": gradient["norm"]["scale"],
            "head": gradient["head"]["embedding"],
        }
        theirs = {param: GOLDEN[f"{name}/gradient/{param}"] for param in ours}
        assert tiny.distance(ours, theirs) < 2e-6

    def test_gradients_by_logprobs(self, name, monkeypatch):
        made = self.made(name)
        batch = tiny.batch_of(made, tokens=9, packed=False)
        R = batch.tokens.shape[1]
        logp = response_logprobs(bigram().model, tiny.first_micro_batch(batch), temperature=0.7)
        settings = rloo.PRESETS[name]["objective"]
        _, gradient, _ = of_logprobs(batch, logp, monkeypatch, **settings)
        theirs = GOLDEN[f"{name}/gradient/logprobs"].reshape(12, 9)
        assert tiny.distance(gradient, np.pad(theirs, ((0, R - 12), (0, 0)))) < 2e-6


def bigram() -> tiny.Policy:
    """A Qwen2 whose attention and MLP add nothing to the embedding."""
    V, D = GOLDEN["embed"].shape
    shape = Architecture(
        vocabulary=V,
        width=D,
        layers=1,
        heads=1,
        kv_heads=1,
        feed_forward=2,
        head_width=2,
        tied=False,
    )
    policy = tiny.policy(shape)
    params = jax.tree.map(lambda x: x, policy.params)
    for parent, child in (("attention", "o"), ("mlp", "down")):
        kernel = params["layers"][parent][child]["kernel"]
        params["layers"][parent][child]["kernel"] = jnp.zeros_like(kernel)
    params["embed"]["embedding"] = jnp.asarray(GOLDEN["embed"])
    params["norm"]["scale"] = jnp.asarray(GOLDEN["scale"])
    params["head"]["embedding"] = jnp.asarray(GOLDEN["head"])
    return policy._replace(params=params)


class TestFreshRollout:
    """The first update on responses that the policy has just sampled."""

    fresh = RESPONSES._replace(old_logprobs=None)

    @pytest.mark.parametrize("ratio", ["sequence", "token"])
    def test_the_ratio_is_exactly_one_and_nothing_is_clipped(self, ratio):
        _, metrics = tiny.gradient(POLICY, RATIOS[ratio], tiny.batch_of(self.fresh))
        assert metrics["ratio/mean"].weight > 0
        for name in ("ratio/min", "ratio/mean", "ratio/max"):
            assert metrics[name].value == 1
        assert metrics["clip_ratio/region_mean"].value == 0

    def test_ratios_of_responses_have_the_gradient_of_the_paper(self):
        # Of advantages that are one number per response, as all but openrlhf's are.
        per_response = np.random.default_rng(0).standard_normal((4, 3, 1)).astype(np.float32)
        made = self.fresh._replace(advantages=np.where(RESPONSES.is_response, per_response, 0))
        batch = tiny.batch_of(made)
        by = {ratio: tiny.gradient(POLICY, RATIOS[ratio], batch)[0] for ratio in RATIOS}
        assert tiny.distance(by["sequence"], by["none"]) < 1e-6
        assert tiny.distance(by["token"], by["none"]) < 1e-6

    def test_a_scored_policy_that_did_not_change_has_a_ratio_of_one(self):
        batch = tiny.batch_of(self.fresh)
        old = jax.jit(response_logprobs)(POLICY.model, tiny.first_micro_batch(batch))
        _, metrics = tiny.gradient(
            POLICY, RATIOS["sequence"], batch._replace(old_logprobs=old[None])
        )
        np.testing.assert_allclose(metrics["ratio/mean"].value, 1, rtol=1e-5)


class TestObjective:
    @pytest.mark.parametrize("aggregation", ["response", "token"])
    def test_micro_batches_change_nothing(self, aggregation):
        """Nor does the KL in the loss, whose weight is over tokens, mind where they are."""
        objective = OBJECTIVE[aggregation]
        whole, expected = tiny.gradient(POLICY, objective, tiny.batch_of(RESPONSES))
        cut, metrics = tiny.gradient(POLICY, objective, tiny.batch_of(RESPONSES, micro_batches=4))
        assert tiny.distance(cut, whole) < 1e-6
        assert metrics["ratio/min"].value < metrics["ratio/mean"].value < metrics["ratio/max"].value
        for name in metrics.keys() - {"grad_norm", "learning_rate", "skipped_updates"}:
            np.testing.assert_allclose(metrics[name].value, expected[name].value, rtol=2e-6)

    @pytest.mark.parametrize("aggregation", ["response", "token"])
    def test_packing_changes_nothing(self, aggregation):
        objective = OBJECTIVE[aggregation]
        packed, _ = tiny.gradient(POLICY, objective, tiny.batch_of(RESPONSES))
        padded, _ = tiny.gradient(POLICY, objective, tiny.batch_of(RESPONSES, packed=False))
        assert tiny.distance(padded, packed) < 1e-6

    @pytest.mark.parametrize(
        ("estimator", "kl", "slope"),
        [("k1", 0.5, 1), ("k2", 0.125, 0.5), ("k3", np.exp(-0.5) - 0.5, 1 - np.exp(-0.5))],
    )
    def test_kl_in_the_loss(self, estimator, kl, slope, monkeypatch):
        batch = rows_of(uniform(advantages=0.0, reference_logprobs=-1.5))
        value, gradient, metrics = of_logprobs(
            batch, np.full((4, 4), -1.0), monkeypatch, kl_weight=0.1, kl_estimator=estimator
        )
        # Three tokens a response, averaged over responses.
        np.testing.assert_allclose(value, 0.1 * 3 * kl, rtol=1e-6)
        np.testing.assert_allclose(metrics["kl"].value, kl, rtol=1e-6)
        np.testing.assert_allclose(gradient[:, 1:], 0.1 * slope / 4, rtol=1e-6)

    def test_kl_is_reported_without_weight(self, monkeypatch):
        batch = rows_of(uniform(advantages=0.0, reference_logprobs=-1.5))
        value, gradient, metrics = of_logprobs(batch, np.full((4, 4), -1.0), monkeypatch)
        assert value == 0
        assert not gradient.any()
        assert metrics["kl"].value > 0

    @pytest.mark.parametrize(
        ("advantage", "logp", "clipped"),
        [(1, -0.9, True), (1, -1.1, False), (-1, -0.9, False), (-1, -1.1, True)],
    )
    def test_ratios_of_responses_stop_counting_where_that_would_lower_the_loss(
        self, advantage, logp, clipped, monkeypatch
    ):
        batch = rows_of(uniform(advantages=advantage))
        value, gradient, metrics = of_logprobs(batch, np.full((4, 4), logp), monkeypatch)
        ratio = np.exp(3 * (logp + 1))
        bound = 1.2 if logp > -1 else 0.8
        np.testing.assert_allclose(value, -advantage * (bound if clipped else ratio), rtol=1e-6)
        expected = 0 if clipped else -advantage * ratio / 4
        np.testing.assert_allclose(gradient[:, 1:], expected, rtol=1e-6)
        side = "high" if logp > -1 else "low"
        for name in ("low", "high"):
            assert metrics[f"clip_ratio/{name}_mean"].value == (clipped and name == side)
        assert metrics["clip_ratio/region_mean"].value == clipped

    def test_only_one_side_may_be_clipped(self, monkeypatch):
        batch = rows_of(uniform(advantages=1.0))
        value, _, _ = of_logprobs(batch, np.full((4, 4), -0.9), monkeypatch, clip_high=None)
        np.testing.assert_allclose(value, -np.exp(0.3), rtol=1e-6)

    @pytest.mark.parametrize(("advantage", "loss"), [(-1, 3.0), (1, -1.2)])
    def test_dual_clip_bounds_what_is_discouraged(self, advantage, loss, monkeypatch):
        settings = dict(ratio="token", aggregation="token")
        batch = rows_of(uniform(advantages=advantage))
        far = np.full((4, 4), -1 + np.log(5))
        unbound, _, _ = of_logprobs(batch, far, monkeypatch, **settings)
        np.testing.assert_allclose(unbound, 5 if advantage < 0 else loss, rtol=1e-6)
        value, gradient, _ = of_logprobs(batch, far, monkeypatch, dual_clip=3.0, **settings)
        np.testing.assert_allclose(value, loss, rtol=1e-6)
        assert not gradient.any()

    @pytest.mark.parametrize(("ratio", "power"), [("none", 1), ("token", 1), ("sequence", 3)])
    @pytest.mark.parametrize("cap", [1.3, 9.0])
    def test_a_sampler_that_differs_is_weighed_up_to_the_cap(self, ratio, power, cap, monkeypatch):
        batch = rows_of(uniform(sampled_logprobs=-1.5))
        given = np.full((4, 4), -1.0)
        run = functools.partial(of_logprobs, batch, given, monkeypatch, ratio=ratio)
        _, plain, metrics = run()
        _, weighed, capped = run(importance_cap=cap)
        weight = min(np.exp(0.5 * power), cap)
        np.testing.assert_allclose(weighed, weight * plain, rtol=1e-6)
        # Tokens came from the sampler: KL(sampler || trainer), whose x is -1.5 - -1.
        np.testing.assert_allclose(metrics["sampling/kl"].value, np.exp(0.5) - 1.5, rtol=1e-6)
        for name in ("mean", "max"):
            difference = metrics[f"sampling/sampling_logp_difference/{name}"].value
            np.testing.assert_allclose(difference, 0.5, rtol=1e-6)
        # Uncapped as long as nothing is weighed by it.
        unweighed = metrics["sampling/importance_sampling_ratio/max"].value
        np.testing.assert_allclose(unweighed, np.exp(0.5 * power), rtol=1e-6)
        for name in ("min", "mean", "max"):
            given_weight = capped[f"sampling/importance_sampling_ratio/{name}"].value
            np.testing.assert_allclose(given_weight, weight, rtol=1e-6)

    @pytest.mark.parametrize("ratio", ["none", "sequence", "token"])
    def test_a_masked_response_teaches_nothing_and_still_counts_as_one(self, ratio, monkeypatch):
        made = uniform()
        is_response = made.is_response.copy()
        is_response[1, 1] = False
        masked = rows_of(made._replace(is_response=is_response))
        given = np.full((4, 4), -1.0)
        whole, gradient, _ = of_logprobs(rows_of(made), given, monkeypatch, ratio=ratio)
        part, without, metrics = of_logprobs(masked, given, monkeypatch, ratio=ratio)
        np.testing.assert_allclose(part, 0.75 * whole, rtol=1e-6)
        np.testing.assert_array_equal(without[:3], gradient[:3])
        assert not without[3].any()
        assert metrics["loss"].weight == 4

    def test_log_ratios_are_bounded_against_overflow(self, monkeypatch):
        batch = rows_of(uniform(advantages=-1.0, old_logprobs=-900.0))
        settings = dict(ratio="token", aggregation="token")
        value, gradient, _ = of_logprobs(
            batch, np.full((4, 4), -1.0), monkeypatch, log_ratio_limit=20.0, **settings
        )
        np.testing.assert_allclose(value, np.exp(20), rtol=1e-6)
        assert not gradient.any()

    @pytest.mark.parametrize(
        ("field", "settings"),
        [
            ("advantages", {}),
            ("sampled_logprobs", {}),
            ("reference_logprobs", {"kl_weight": 0.1}),
        ],
    )
    def test_what_is_missing_is_said(self, field, settings, monkeypatch):
        batch = rows_of(uniform(**{field: None}))
        with pytest.raises(ValueError, match=rf"`batch\.{field}`"):
            of_logprobs(batch, np.full((4, 4), -1.0), monkeypatch, **settings)


OBJECTIVE = {
    aggregation: functools.partial(
        rloo.objective,
        ratio="sequence" if aggregation == "response" else "token",
        aggregation=aggregation,
        kl_weight=0.1,
        importance_cap=1.05,
    )
    for aggregation in ("response", "token")
}
