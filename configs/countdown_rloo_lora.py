r"""RLOO of adapters on Countdown against the rule verifier, from an SFT checkpoint.

    rlft train --config=configs/countdown_rloo_lora.py --workdir=runs/countdown_rloo_lora \
        --config.model.path=runs/countdown_sft
    rlft export --run=runs/countdown_rloo_lora --out=adapter --adapter

As countdown_rloo, with new adapters on the SFT model, which is the KL's reference with them off.
A PEFT adapter is of use only with its base, so export the SFT run as a folder first, and start
from that folder, if the adapter is to be published alone. The adapters are those of
arXiv:2506.21560 without their dropout, which would disturb the ratios; the learning rate is ours.

Problems of your own: --config.data.path=FILE.jsonl --config.data.split=train, with `nums` and
`target`.

Written for one accelerator of 16 GiB or more; not measured yet.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Returns everything that tells this run from another."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 400

    config.model = dict(path=placeholder(str), dtype="bfloat16", remat="full")
    config.lora = dict(rank=8, alpha=32.0, targets=("q_proj", "k_proj", "v_proj", "o_proj"))
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
        name="adamw", learning_rate=1e-5, schedule="constant", warmup_steps=10, clip_norm=1.0
    )
    config.batch = dict(prompts=64, tokens=768, micro_batches=8)

    config.every = dict(log=1, evaluate=50, save=50, samples=10)
    config.keep = dict(last=1, best=1, metric="eval_accuracy")
    config.evaluation = dict(samples=1, max_new_tokens=512, temperature=0.0)
    return config
