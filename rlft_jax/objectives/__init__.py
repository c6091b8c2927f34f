"""What training minimises: one file per algorithm.

An objective is a pure function `(model, batch, temperature, *, settings) -> Metrics` of one
micro-batch. It returns `Mean`s, and training minimises the one called "loss". To add an
algorithm, write the file and name it here.
"""

from rlft_jax.objectives import rloo, sft

OBJECTIVES = {
    "rloo": rloo.objective,
    "sft": sft.objective,
}
