"""DPO on UltraFeedback's preferences, from an SFT checkpoint, with the settings of
arXiv:2506.21560.

    rlft train --config=configs/ultrafeedback_dpo.py --workdir=runs/ultrafeedback_dpo \\
        --config.model.path=runs/smoltalk_sft
    rlft evaluate --task=preferences --model=runs/ultrafeedback_dpo

The model to start from is the reference too. What is evaluated is the implicit reward, on the pairs
that the run held out. Pairs of your own: --config.data.path=FILE.jsonl
--config.data.split=train with `chosen` and `rejected`. Other losses: --config.objective.loss=ipo,
or --config.objective.preset=simpo. With adapters the authors trained 3 epochs:
--config.epochs=3 --config.lora="{'rank': 8, 'alpha': 32.0, 'targets':
('q_proj', 'k_proj', 'v_proj', 'o_proj')}"

From the authors' code come beta 0.1, 1,024 tokens, batch 16, learning rate 5e-7 and one epoch.
Ours are bfloat16, packed rows, warm-up over 100 steps, and pairs held out by prompt.

Written for one accelerator of 24 GiB or more; not measured yet.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Returns everything that tells this run from another."""
    config = ConfigDict()
    config.seed = 0
    config.epochs = 1.0

    config.model = dict(path=placeholder(str), dtype="bfloat16", remat="full")
    config.data = dict(
        path="HuggingFaceH4/ultrafeedback_binarized", split="train_prefs", holdout=500
    )
    config.cache_reference = True
    config.objective = dict(name="dpo", beta=0.1)
    config.optimizer = dict(
        name="adamw", learning_rate=5e-7, schedule="cosine", warmup_steps=100, weight_decay=0.0
    )
    config.batch = dict(prompts=16, tokens=1024, micro_batches=2)

    config.every = dict(log=10, evaluate=500, save=500)
    config.keep = dict(last=1, best=1, metric="eval_rewards/accuracies")
    config.evaluation = dict(limit=500)
    return config
