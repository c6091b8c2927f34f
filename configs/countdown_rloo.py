r"""RLOO on Countdown against the rule verifier, from an SFT checkpoint.

    rlft train --config=configs/countdown_rloo.py --workdir=runs/countdown_rloo \
        --config.model.path=runs/countdown_sft

The model to start from, which is the KL's reference too, may also be a Hugging Face folder or hub
name. Problems of your own: --config.data.path=FILE.jsonl --config.data.split=train, with `nums`
and `target`; leave out of them what the SFT was trained on, as the split does here.

arXiv:2506.21560 reports no RLOO on Countdown (the script in the authors' repository was a stub).
From its runs on UltraFeedback come 4 responses a prompt and the weight 0.03 of the KL in the
reward; all else is ours. The reward is 1 for a right answer, 0.1 for one that can only be read.

Written for one accelerator of 24 GiB or more; not measured yet.
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
        path="Jiayi-Pan/Countdown-Tasks-3to4",
        split="train[1200:51200]",
        task="countdown",
        template="tinyzero",
        holdout=200,
    )
    config.rollout = dict(responses=4)
    config.sampling = dict(max_new_tokens=512, temperature=1.0)
    config.reward = dict(scorer="strict")
    config.objective = dict(name="rloo", preset="trl")
    config.advantages = dict(kl_weight=0.03)
    config.optimizer = dict(
        name="adamw", learning_rate=1e-6, schedule="constant", warmup_steps=10, clip_norm=1.0
    )
    config.batch = dict(prompts=64, tokens=768, micro_batches=8)

    config.every = dict(log=1, evaluate=50, save=50, samples=10)
    config.keep = dict(last=1, best=1, metric="eval_accuracy")
    config.evaluation = dict(samples=1, max_new_tokens=512, temperature=0.0)
    return config
