"""What DPO and its relatives make of pairs of log-probabilities: one loss per pair.

They differ in what they compare, log-probabilities or ratios to a reference, of whole responses or
per token, and in how far is far enough. `LOSSES` lists them with the settings that each one uses.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Pairs(NamedTuple):
    """What is known of pairs of responses, the chosen one first.

    Attributes:
        logps: Log-probabilities of the responses under the policy, in nats.
        reference: The same under the reference; 0 where there is none.
        tokens: Tokens of the responses, at least 1.
    """

    logps: Float[Array, "P 2"]
    reference: Float[Array, "P 2"]
    tokens: Float[Array, "P 2"]

    @property
    def ratios(self) -> Float[Array, "P 2"]:
        """How many nats likelier a response became."""
        return self.logps - self.reference


class Settings(NamedTuple):
    """Numbers that losses depend on; see `objective`."""

    beta: float
    label_smoothing: float
    gamma: float


PairLoss = Callable[[Pairs, Settings], Float[Array, " P"]]


def sigmoid(pairs: Pairs, to: Settings) -> Float[Array, " P"]:
    """DPO, eq. 7; with smoothing the conservative cDPO (Mitchell, 2023)."""
    return _cross_entropy(to.beta * gap(pairs.ratios), to.label_smoothing)


def sigmoid_norm(pairs: Pairs, to: Settings) -> Float[Array, " P"]:
    """DPO on ratios per token (Lambert et al., 2024, arXiv:2411.15124)."""
    return _cross_entropy(to.beta * gap(pairs.ratios / pairs.tokens), to.label_smoothing)


def robust(pairs: Pairs, to: Settings) -> Float[Array, " P"]:
    """DPO without the bias of flipped labels (Chowdhury et al., 2024, arXiv:2403.00409)."""
    margin, flips = to.beta * gap(pairs.ratios), to.label_smoothing
    right, flipped = -jax.nn.log_sigmoid(margin), -jax.nn.log_sigmoid(-margin)
    return ((1 - flips) * right - flips * flipped) / (1 - 2 * flips)


def ipo(pairs: Pairs, to: Settings) -> Float[Array, " P"]:
    """IPO (Azar et al., 2023, arXiv:2310.12036, eq. 17) per token, as its authors ran it."""
    return (gap(pairs.ratios / pairs.tokens) - 1 / (2 * to.beta)) ** 2


def ipo_sum(pairs: Pairs, to: Settings) -> Float[Array, " P"]:
    """IPO on whole responses, as eq. 17 is written."""
    return (gap(pairs.ratios) - 1 / (2 * to.beta)) ** 2


def hinge(pairs: Pairs, to: Settings) -> Float[Array, " P"]:
    """A margin of 1 is enough (SLiC; Zhao et al., 2023, arXiv:2305.10425)."""
    return jax.nn.relu(1 - to.beta * gap(pairs.ratios))


def apo_zero(pairs: Pairs, to: Settings) -> Float[Array, " P"]:
    """Each response by itself, up or down (D'Oosterlinck et al., 2024, arXiv:2408.06266, eq. 7)."""
    chosen, rejected = (to.beta * pairs.ratios).T
    return jax.nn.sigmoid(-chosen) + jax.nn.sigmoid(rejected)


def simpo(pairs: Pairs, to: Settings) -> Float[Array, " P"]:
    """Mean log-probability with a target margin (Meng et al., 2024, arXiv:2405.14734, eq. 6)."""
    return -jax.nn.log_sigmoid(to.beta * gap(pairs.logps / pairs.tokens) - to.gamma)


def orpo(pairs: Pairs, to: Settings) -> Float[Array, " P"]:
    """Imitation and a ratio of odds (Hong et al., 2024, arXiv:2403.07691, eq. 6 and 7)."""
    # A response learned by heart has a probability of 1, whose odds are infinite.
    logp = jnp.minimum(pairs.logps / pairs.tokens, -1e-6)
    log_odds = logp - jnp.log(-jnp.expm1(logp))
    return sft(pairs, to) - to.beta * jax.nn.log_sigmoid(gap(log_odds))


def sft(pairs: Pairs, to: Settings) -> Float[Array, " P"]:
    """Imitation of the chosen response, all its tokens together counting as one pair."""
    return -(pairs.logps / pairs.tokens)[:, 0]


def gap(values: Float[Array, "P 2"]) -> Float[Array, " P"]:
    """How much more the chosen response has."""
    return values[:, 0] - values[:, 1]


def _cross_entropy(margin: Float[Array, " P"], smoothing: float) -> Float[Array, " P"]:
    """Of the odds sigmoid(margin) against labels of which a share is expected to be wrong."""
    right, wrong = jax.nn.log_sigmoid(margin), jax.nn.log_sigmoid(-margin)
    return -(1 - smoothing) * right - smoothing * wrong


class Loss(NamedTuple):
    """One member of the family.

    Attributes:
        of: The loss of each pair.
        uses: Settings that it depends on.
        reference: Whether it compares with a reference always, unless `reference_free`, or never.
    """

    of: PairLoss
    uses: tuple[str, ...]
    reference: Literal["always", "by default", "never"]


LOSSES: dict[str, Loss] = {
    "sigmoid": Loss(sigmoid, ("beta", "label_smoothing"), "by default"),
    "robust": Loss(robust, ("beta", "label_smoothing"), "by default"),
    "sigmoid_norm": Loss(sigmoid_norm, ("beta", "label_smoothing"), "by default"),
    "ipo": Loss(ipo, ("beta",), "by default"),
    "ipo_sum": Loss(ipo_sum, ("beta",), "by default"),
    "hinge": Loss(hinge, ("beta",), "by default"),
    "apo_zero": Loss(apo_zero, ("beta",), "always"),
    "simpo": Loss(simpo, ("beta", "gamma"), "never"),
    "orpo": Loss(orpo, ("beta",), "never"),
    "sft": Loss(sft, (), "never"),
}
