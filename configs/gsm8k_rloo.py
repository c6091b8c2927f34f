r"""RLOO on GSM8K against the numeric verifier, from an SFT checkpoint or an instruct model.

    rlft train --config=configs/gsm8k_rloo.py --workdir=runs/gsm8k_rloo \
        --config.model.path=runs/gsm8k_sft

The reward is 1 if the last number that a response gives as its answer ("#### 72", \boxed{72}, "the
answer is 72") equals the row's exactly, otherwise 0. Problems of your own:
--config.data.path=FILE.jsonl with `question` and `answer`. The test split stays untouched.

Settings are ours. Written for one accelerator of 24 GiB or more; not measured yet.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Returns everything that tells this run from another."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 400

    config.model = dict(path=placeholder(str), dtype="bfloat16", remat="full")
    config.data = dict(
        path="openai/gsm8k", subset="main", task="gsm8k", template="chat", holdout=200
    )
    config.rollout = dict(responses=8)
    config.sampling = dict(max_new_tokens=400, temperature=1.0)
    config.reward = dict(scorer="strict")
    config.objective = dict(name="rloo", preset="trl")
    config.advantages = dict(kl_weight=0.01)
    config.optimizer = dict(
        name="adamw", learning_rate=1e-6, schedule="constant", warmup_steps=10, clip_norm=1.0
    )
    config.batch = dict(prompts=32, tokens=768, micro_batches=8)

    config.every = dict(log=1, evaluate=50, save=50, samples=10)
    config.keep = dict(last=1, best=1, metric="eval_accuracy")
    config.evaluation = dict(samples=1, max_new_tokens=400, temperature=0.0)
    return config
