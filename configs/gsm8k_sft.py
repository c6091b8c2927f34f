"""SFT of Qwen2.5-0.5B on the solutions of GSM8K.

    rlft train --config=configs/gsm8k_sft.py --workdir=runs/gsm8k_sft

The solutions are those of the data set without their calculator annotations, and end in
"#### answer". Rows of your own: --config.data.path=FILE.jsonl with `question` and `answer`. The
test split stays untouched: 200 training rows choose the checkpoint.

Settings are ours. Written for one accelerator of 16 GiB or more; not measured yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns everything that tells this run from another."""
    config = ConfigDict()
    config.seed = 0
    config.epochs = 3.0

    config.model = dict(path="Qwen/Qwen2.5-0.5B", dtype="bfloat16", remat="full")
    config.data = dict(
        path="openai/gsm8k", subset="main", task="gsm8k", template="chat", holdout=200
    )
    config.objective = dict(name="sft")
    config.optimizer = dict(
        name="adamw", learning_rate=1e-5, schedule="cosine", warmup_steps=50, weight_decay=0.01
    )
    config.batch = dict(prompts=32, tokens=1024)

    config.every = dict(log=10, evaluate=100, save=100)
    config.keep = dict(last=1, best=1, metric="eval_loss")
    return config
