"""SFT of Qwen2.5-0.5B on SmolTalk, the first step of arXiv:2506.21560 to instruction following.

    rlft train --config=configs/smoltalk_sft.py --workdir=runs/smoltalk_sft

Chats of your own: --config.data.path=FILE.jsonl with `messages`. With adapters, as the authors had
them: --config.lora="{'rank': 8, 'alpha': 32.0, 'dropout': 0.05, 'targets':
('q_proj', 'k_proj', 'v_proj', 'o_proj')}" --config.epochs=3

From the authors' code come the first user turn and its answer, full parameters, one epoch, batch
16, learning rate 5e-6, weight decay 0.01, warm-up over 100 steps, cosine decay, 1,024 tokens, a
twentieth of the rows held out of which 500 are evaluated, and the checkpoint of lowest held-out
loss. Ours are bfloat16 in the place of float16, and packed rows.

Written for one accelerator of 16 GiB or more; not measured yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns everything that tells this run from another."""
    config = ConfigDict()
    config.seed = 0
    config.epochs = 1.0

    config.model = dict(path="Qwen/Qwen2.5-0.5B", dtype="bfloat16", remat="full")
    config.data = dict(path="HuggingFaceTB/smol-smoltalk", turns="first", holdout=0.05)
    config.objective = dict(name="sft")
    config.optimizer = dict(
        name="adamw", learning_rate=5e-6, schedule="cosine", warmup_steps=100, weight_decay=0.01
    )
    config.batch = dict(prompts=16, tokens=1024)

    config.every = dict(log=10, evaluate=500, save=500)
    config.keep = dict(last=1, best=1, metric="eval_loss")
    config.evaluation = dict(limit=500)
    config.stop = dict(patience=3)
    return config
