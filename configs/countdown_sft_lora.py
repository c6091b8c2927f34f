"""SFT of adapters for Qwen2.5-0.5B on worked Countdown derivations, otherwise as countdown_sft.

    rlft train --config=configs/countdown_sft_lora.py --workdir=runs/countdown_sft_lora
    rlft export --run=runs/countdown_sft_lora --out=adapter --adapter

The adapters are those of the authors of arXiv:2506.21560: rank 8, alpha 32, dropout 0.05, on the
four projections of attention. They trained them on text with the learning rate of full
parameters, and so do we; adapters often bear ten times as much.

Rows of your own: --config.data.path=FILE.jsonl, as for countdown_sft.

Written for one accelerator of 8 GiB or more; not measured yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns everything that tells this run from another."""
    config = ConfigDict()
    config.seed = 0
    config.epochs = 10.0

    config.model = dict(path="Qwen/Qwen2.5-0.5B", dtype="bfloat16", remat="full")
    config.lora = dict(
        rank=8, alpha=32.0, dropout=0.05, targets=("q_proj", "k_proj", "v_proj", "o_proj")
    )
    config.data = dict(
        path="Jiayi-Pan/Countdown-Tasks-3to4",
        split="train[:1200]",
        task="countdown",
        template="tinyzero",
        holdout=200,
    )
    config.objective = dict(name="sft")
    config.optimizer = dict(
        name="adamw", learning_rate=5e-6, schedule="cosine", warmup_steps=100, weight_decay=0.01
    )
    config.batch = dict(prompts=16, tokens=1024)

    config.every = dict(log=10, evaluate=50, save=100)
    config.keep = dict(last=1, best=1, metric="eval_loss")
    config.stop = dict(patience=3)
    return config
