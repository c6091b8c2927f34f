"""Facts about DPO and its relatives, as losses of pairs and as training objectives."""

import functools
import json
import math
import pathlib
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlft_jax.batch import Batch, Responses, pack
from rlft_jax.config.settings import fit, parse, settings_of
from rlft_jax.logprobs import response_logprobs
from rlft_jax.models.head import Scores
from rlft_jax.objectives import dpo, pair_losses
from rlft_jax.objectives.pair_losses import LOSSES
from rlft_jax.packing import first_fit
from tests import tiny

RESPONSES = tiny.responses(prompts=8, group=2)
POLICY = tiny.policy()
GOLDEN = dict(np.load(pathlib.Path(__file__).parents[1] / "golden" / "dpo.npz"))
CASES = json.loads(str(GOLDEN["cases"]))
# Every loss at once, so that one gradient speaks for all.
EVERY = functools.partial(
    dpo.objective,
    loss={name: 1.0 + 0.1 * i for i, name in enumerate(LOSSES)},
    beta=0.2,
    label_smoothing=0.1,
)


def of_logprobs(batch: Batch, logp: Any, monkeypatch, **how: Any):
    """Loss, its gradient by log-probabilities, and metrics, where the policy is a table of them."""
    batch = tiny.first_micro_batch(batch)

    def loss(logp):
        scores = Scores(logp, jnp.zeros_like(logp), jnp.zeros_like(logp, bool))
        with monkeypatch.context() as patch:
            patch.setattr(dpo, "token_scores", lambda *_, **__: scores)
            metrics = dpo.objective(POLICY.model, batch, **how)
        return metrics["loss"].value, metrics

    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(logp))
    return value, gradient, metrics


def pair(chosen: int = 3, rejected: int = 2) -> Responses:
    """One pair of so many tokens after a prompt of one, each worth -1 to the reference."""
    t, lengths = np.arange(6), np.array([[1 + chosen, 1 + rejected]], np.int32)
    is_response = (t > 0) & (t < lengths[..., None])
    reference = np.where(is_response, -1, 0).astype(np.float32)
    return Responses(
        np.ones((1, 2, 6), np.int32), is_response, lengths, reference_logprobs=reference
    )


def rows_of(made: Responses) -> Batch:
    """One response a row."""
    return tiny.batch_of(made, tokens=made.tokens.shape[-1], packed=False)


def of_gap(gap: float, monkeypatch, **how: Any) -> tuple[float, float]:
    """Loss and its slope where chosen gained `gap` nats on rejected, of one token each."""
    batch = rows_of(pair(1, 1))
    logp = np.full(batch.tokens.shape[1:], -1.0).astype(np.float32)
    logp[0, 1] += gap
    value, gradient, _ = of_logprobs(batch, logp, monkeypatch, **how)
    np.testing.assert_allclose(gradient[0, 1], -gradient[1, 1], rtol=1e-6)
    return float(value), float(gradient[0, 1])


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_the_formulas(name, monkeypatch):
    g = GOLDEN
    made = Responses(
        np.zeros(g["is_response"].shape, np.int32),
        g["is_response"],
        g["lengths"].astype(np.int32),
        reference_logprobs=g["reference"],
    )
    batch = rows_of(made)
    R = batch.tokens.shape[1]
    flat = lambda field: np.pad(field.reshape(10, -1), ((0, R - 10), (0, 0)))
    value, gradient, _ = of_logprobs(batch, flat(g["logprobs"]), monkeypatch, **CASES[name])
    np.testing.assert_allclose(value, g[f"{name}/loss"], rtol=2e-6)
    assert tiny.distance(gradient, flat(g[f"{name}/gradient"])) < 2e-6


def test_before_the_first_step_losses_are_known_numbers():
    batch = tiny.batch_of(RESPONSES)
    ours = jax.jit(response_logprobs)(POLICY.model, tiny.first_micro_batch(batch))
    batch = batch._replace(reference_logprobs=ours[None])
    several = functools.partial(
        dpo.objective, loss=dict.fromkeys(LOSSES, 1.0), beta=0.1, label_smoothing=0.1
    )
    gradient, metrics = tiny.gradient(POLICY, several, batch)
    for name, expected in {
        **dict.fromkeys(("sigmoid", "robust", "sigmoid_norm"), math.log(2)),
        **dict.fromkeys(("ipo", "ipo_sum"), 1 / (4 * 0.1**2)),
        **dict.fromkeys(("hinge", "apo_zero"), 1.0),
    }.items():
        np.testing.assert_allclose(metrics[f"loss/{name}"].value, expected, rtol=1e-5)
    assert metrics["chosen_logp_fell"].value == 0
    np.testing.assert_allclose(metrics["rewards/margins"].value, 0, atol=1e-5)
    assert any(np.abs(x).max() > 1e-3 for x in jax.tree.leaves(gradient))


def test_the_first_gradient_raises_chosen_tokens_and_lowers_rejected_ones(monkeypatch):
    """By half of beta: sigmoid(0), eq. 7's weight of a pair that the policy cannot tell apart."""
    made = pair()
    batch = rows_of(made)
    logp = np.asarray(batch.reference_logprobs[0])
    value, gradient, _ = of_logprobs(batch, logp, monkeypatch, beta=0.3)
    np.testing.assert_allclose(value, math.log(2), rtol=1e-6)
    expected = np.zeros(logp.shape)
    expected[0, 1:4], expected[1, 1:3] = -0.15, 0.15
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_smoothed_labels_pull_the_margin_to_their_own_odds(smoothing, monkeypatch):
    """cDPO is least where sigmoid(beta gap) = 1 - smoothing, and grows on both sides."""
    how = dict(beta=0.5, label_smoothing=smoothing)
    gap = math.log(1 / smoothing - 1) / 0.5
    assert abs(of_gap(gap, monkeypatch, **how)[1]) < 1e-7
    assert of_gap(gap - 1, monkeypatch, **how)[1] < -1e-3
    assert of_gap(gap + 1, monkeypatch, **how)[1] > 1e-3


def test_labels_wrong_half_of_the_time_teach_no_direction(monkeypatch):
    slope = lambda gap: of_gap(gap, monkeypatch, beta=0.5, label_smoothing=0.5)[1]
    assert slope(0.0) == 0
    assert slope(2.0) > 0.1
    np.testing.assert_allclose(slope(2.0), -slope(-2.0), rtol=1e-5)


@pytest.mark.parametrize("gap", [-3.0, 0.5])
def test_robust_losses_of_flipped_labels_average_to_that_of_true_ones(gap, monkeypatch):
    robust = lambda gap: of_gap(gap, monkeypatch, loss="robust", label_smoothing=0.2)[0]
    true = of_gap(gap, monkeypatch, loss="sigmoid")[0]
    np.testing.assert_allclose(0.8 * robust(gap) + 0.2 * robust(-gap), true, rtol=1e-5)


def test_ipo_stops_at_its_target_and_hinge_at_its_margin(monkeypatch):
    assert of_gap(2.5, monkeypatch, loss="ipo_sum", beta=0.2) == (0, 0)
    assert of_gap(3.5, monkeypatch, loss="ipo_sum", beta=0.2) == (1, 2)
    assert of_gap(2.5, monkeypatch, loss="hinge", beta=0.5) == (0, 0)
    assert of_gap(1.0, monkeypatch, loss="hinge", beta=0.5) == (0.5, -0.5)


@pytest.mark.parametrize("name", ["ipo", "sigmoid_norm", "simpo", "orpo"])
def test_length_normalised_losses_do_not_see_a_response_said_twice(name, monkeypatch):
    def loss(tokens: int) -> float:
        batch = rows_of(pair(tokens, 2))
        logp = np.where(batch.is_response[0], -0.7, 0).astype(np.float32)
        return of_logprobs(batch, logp, monkeypatch, loss=name)[0]

    np.testing.assert_allclose(loss(2), loss(4), rtol=1e-6)


def test_a_response_learned_by_heart_has_finite_odds(monkeypatch):
    batch = rows_of(pair())
    logp = np.zeros(batch.tokens.shape[1:], np.float32)
    value, gradient, _ = of_logprobs(batch, logp, monkeypatch, loss="orpo")
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_depends_on_the_settings_that_the_table_names_and_on_no_other(name, monkeypatch):
    batch = rows_of(pair())
    each = lambda *sides: jnp.where(batch.is_response[0], jnp.array(sides)[:, None], 0)
    logp = each(-0.5, -0.8)
    batch = batch._replace(reference_logprobs=each(-1.0, -1.1)[None])
    base = dict(loss=name, beta=0.1, label_smoothing=0.1, gamma=0.3)
    value = lambda **how: float(of_logprobs(batch, logp, monkeypatch, **{**base, **how})[0])
    used = {
        setting
        for setting, other in dict(beta=0.2, label_smoothing=0.2, gamma=0.7).items()
        if value(**{setting: other}) != value()
    }
    assert used == set(LOSSES[name].uses)
    other = batch._replace(reference_logprobs=2 * batch.reference_logprobs)
    sees = float(of_logprobs(other, logp, monkeypatch, **base)[0]) != value()
    assert sees == (LOSSES[name].reference != "never") == dpo.needs_reference(base)
    if LOSSES[name].reference == "by default":
        assert not dpo.needs_reference({**base, "reference_free": True})
        blind = functools.partial(of_logprobs, logp=logp, monkeypatch=monkeypatch)
        how = {**base, "reference_free": True}
        assert blind(batch, **how)[0] == blind(other, **how)[0] != value()


class TestLayouts:
    """The same pairs, laid out in other ways."""

    whole = tiny.gradient(POLICY, EVERY, tiny.batch_of(RESPONSES))

    def check(self, batch: Batch) -> None:
        gradient, metrics = tiny.gradient(POLICY, EVERY, batch)
        assert tiny.distance(gradient, self.whole[0]) < 2e-6  # ten losses are summed
        assert metrics.keys() == self.whole[1].keys()
        for name, mean in self.whole[1].items():
            if name != "num_tokens":
                np.testing.assert_allclose(
                    metrics[name].value, mean.value, rtol=1e-5, atol=1e-6, err_msg=name
                )

    @pytest.mark.parametrize("micro_batches", [2, 8])
    def test_micro_batches_change_nothing(self, micro_batches):
        self.check(tiny.batch_of(RESPONSES, micro_batches=micro_batches))

    def test_packing_changes_nothing(self):
        padded = tiny.batch_of(RESPONSES, packed=False)
        assert padded.tokens.shape != tiny.batch_of(RESPONSES).tokens.shape
        self.check(padded)

    def test_empty_places_count_for_nothing(self):
        def filled(field, value=0):
            return np.concatenate([field, np.full_like(field[:2], value)])

        made = Responses(*(None if field is None else filled(field) for field in RESPONSES))
        # One is empty, of the other the rejected side has nothing to answer for.
        made.tokens[-1] = 3
        made.lengths[-1] = 5
        made.is_response[-1, 0, 2:5] = True
        batch = tiny.batch_of(made, micro_batches=2)
        gradient, metrics = tiny.gradient(POLICY, EVERY, batch)
        assert tiny.distance(gradient, self.whole[0]) < 2e-6  # ten losses are summed
        assert metrics["loss"].weight == 8
        assert metrics["frac_real_pairs"].value == 0.8


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.tuples(*[st.integers(0, 9)] * 2), min_size=4, max_size=24),
    micro_batches=st.sampled_from([1, 2, 4]),
    packed=st.booleans(),
)
def test_a_pair_is_never_in_two_micro_batches(lengths, micro_batches, packed):
    lengths = np.array(lengths[: len(lengths) // 4 * 4], np.int32)
    packing = first_fit(lengths, tokens=16, micro_batches=micro_batches, packed=packed)
    np.testing.assert_array_equal(packing.micro_batch[:, 0], packing.micro_batch[:, 1])
    # Ids of pair and side, so that they can be found again.
    B = len(lengths)
    tokens = np.broadcast_to((np.arange(2 * B) + 1).reshape(B, 2, 1), (B, 2, 9)).astype(np.int32)
    batch = pack(Responses(tokens, np.ones((B, 2, 9), bool), lengths), packing)
    found = []
    for m in range(micro_batches):
        for p, g in zip(*np.nonzero(batch.is_real[m])):
            (token,) = set(batch.tokens[m][batch.segments[m] == 2 * p + g + 1])
            assert (token - 1) % 2 == g
            found.append(token - 1)
    assert sorted(found) == list(np.flatnonzero(lengths.ravel()))


class TestMetrics:
    def test_they_are_trls_and_what_users_of_dpo_ask_for(self, monkeypatch):
        made = Responses(*(np.concatenate([x, x]) if x is not None else x for x in pair()))
        batch = rows_of(made)
        logp = np.array(batch.reference_logprobs[0])
        # The first pair learned, the second lost on both sides, on the chosen one more.
        logp[0, 1], logp[1, 1], logp[2, 1], logp[3, 1] = -0.5, -2.0, -3.0, -1.5
        _, _, metrics = of_logprobs(batch, logp, monkeypatch, beta=0.1)
        values = {name: float(mean.value) for name, mean in metrics.items() if name != "loss"}
        expected = {
            "rewards/chosen": 0.1 * (0.5 - 2) / 2,
            "rewards/rejected": 0.1 * (-1 - 0.5) / 2,
            "rewards/accuracies": 0.5,
            "rewards/margins": 0.1 * (1.5 - 1.5) / 2,
            "logps/chosen": -(2.5 + 5) / 2,
            "logps/rejected": -(3 + 2.5) / 2,
            "completions/length_gap": 1.0,
            "chosen_logp_fell": 0.5,
            "entropy": 0.0,
            "frac_real_pairs": 1.0,
        }
        assert values == pytest.approx(expected, abs=1e-7)

    def test_without_a_reference_rewards_are_what_a_token_is_worth(self, monkeypatch):
        batch = rows_of(pair())._replace(reference_logprobs=None)
        logp = np.where(batch.is_response[0], [[-0.5], [-2.0]], 0).astype(np.float32)
        _, _, metrics = of_logprobs(batch, logp, monkeypatch, loss="simpo", beta=2.0)
        assert metrics["rewards/chosen"].value == -1
        assert metrics["rewards/margins"].value == 3
        assert "chosen_logp_fell" not in metrics

    def test_several_losses_are_reported_each_and_in_all(self, monkeypatch):
        batch = rows_of(pair())
        logp = np.where(batch.is_response[0], -0.5, 0).astype(np.float32)
        weights = {"sigmoid": 1, "sft": 0.5}
        value, _, metrics = of_logprobs(batch, logp, monkeypatch, loss=weights)
        assert metrics["loss/sft"].value == 0.5
        np.testing.assert_allclose(value, metrics["loss/sigmoid"].value + 0.25, rtol=1e-6)


class TestRefusals:
    def test_other_than_two_responses(self):
        batch = tiny.first_micro_batch(tiny.batch_of(tiny.responses(group=3)))
        with pytest.raises(ValueError, match="but the batch has 3"):
            dpo.objective(POLICY.model, batch)

    @pytest.mark.parametrize("loss", ["sigmoid", {"simpo": 1.0, "apo_zero": 0.5}])
    def test_a_missing_reference(self, loss, monkeypatch):
        batch = rows_of(pair())._replace(reference_logprobs=None)
        with pytest.raises(ValueError, match=r"`batch\.reference_logprobs`"):
            of_logprobs(batch, batch.tokens[0].astype(float), monkeypatch, loss=loss)

    @pytest.mark.parametrize(
        ("section", "unused"),
        [
            (dict(loss="sigmoid", beta=0.5, label_smoothing=0.1), []),
            (dict(loss="sigmoid", gamma=1.0), ["gamma"]),
            (dict(loss="ipo", label_smoothing=0.1, gamma=0.5), ["label_smoothing"]),
            (dict(loss="simpo", gamma=1.0, reference_free=True), ["reference_free"]),
            (dict(loss={"simpo": 1.0, "sigmoid": 1.0}, gamma=1.0, reference_free=True), []),
            (dict(name="dpo", preset=None, loss="sft", beta=0.2), ["beta"]),
        ],
    )
    def test_settings_that_the_loss_does_not_use(self, section, unused):
        assert dpo.unused(section) == unused
        wrong = dpo.problems(section)
        assert len(wrong) == len(unused)
        assert all(f"config.objective.{name} =" in text for name, text in zip(unused, wrong))

    @pytest.mark.parametrize(
        ("section", "message"),
        [
            (dict(loss="apo_zero", reference_free=True), "reference_free makes no sense"),
            (dict(loss={"sigmoid": 1.0, "sft": 0.0}), "weights above 0"),
            (dict(loss={}), "one loss or more"),
            (dict(loss="robust", label_smoothing=0.5), "label_smoothing = 0.5 must be"),
            (dict(beta=0.0), "beta = 0.0 must be above 0"),
        ],
    )
    def test_settings_that_make_no_sense(self, section, message):
        assert any(message in problem for problem in dpo.problems(section))


class TestConfig:
    def test_names_are_those_of_the_table(self):
        assert typing.get_args(dpo.Name) == tuple(LOSSES)
        known = settings_of(dpo.objective)
        assert set(pair_losses.Settings._fields) < known.keys()
        assert all(known[name].help for name in known)

    def test_a_loss_may_be_a_name_or_several_with_weights(self):
        annotation = settings_of(dpo.objective)["loss"].annotation
        assert fit("ipo_sum", annotation) == parse("ipo_sum", annotation) == "ipo_sum"
        several = {"sigmoid": 1, "sft": 0.2}
        assert fit(several, annotation) == parse(str(several), annotation) == several
        for wrong in ("sigmod", {"sigmod": 1.0}, {"sft": "much"}):
            with pytest.raises(ValueError, match="one of 'sigmoid', 'robust'"):
                fit(wrong, annotation)

    @pytest.mark.parametrize("name", dpo.PRESETS)
    def test_presets_use_all_that_they_set(self, name):
        section = dpo.PRESETS[name]["objective"]
        assert dpo.problems(section) == []
        assert section.keys() <= settings_of(dpo.objective).keys()
