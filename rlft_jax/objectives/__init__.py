"""What training minimises: one file per algorithm.

An objective is a pure function `(model, batch, temperature, *, settings) -> Metrics` of one
micro-batch; that of a reward model knows no temperature. It returns `Mean`s, and training minimises
the one called "loss". To add an algorithm, write the file and name it here.
"""

from rlft_jax.objectives import dpo, reward_model, rloo, sft

OBJECTIVES = {
    "dpo": dpo.objective,
    "reward_model": reward_model.objective,
    "rloo": rloo.objective,
    "sft": sft.objective,
}
