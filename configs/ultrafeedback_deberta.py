r"""A DeBERTa-v3 reward model, trained further on UltraFeedback's pairs.

    rlft train --config=configs/ultrafeedback_deberta.py --workdir=runs/ultrafeedback_deberta
    rlft evaluate --task=preferences --model=runs/ultrafeedback_deberta \
        --data=HuggingFaceH4/ultrafeedback_binarized --split=test_prefs

The authors of arXiv:2506.21560 used OpenAssistant's model as it is, which needs no training here
either: give it to `rlft score`, `rlft evaluate` or config.reward.models. Its files on the hub may
be pickles (pytorch_model.bin), which are never fetched or read: load it with transformers where
torch is, `save_pretrained` it to a folder, and name that folder in the place of the model. Without
a config of theirs, the settings here are ours; texts are pairs of prompt and response, as
OpenAssistant trained on. To begin from an encoder without a head: --config.model.path=NAME
--config.model.parameters=new_head. Pairs of your own: --config.data.path=FILE.jsonl
--config.data.split=train with `chosen` and `rejected`.

Written for one accelerator of 24 GiB or more; not measured yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns everything that tells this run from another."""
    config = ConfigDict()
    config.seed = 0
    config.epochs = 1.0

    config.model = dict(
        path="OpenAssistant/reward-model-deberta-v3-large", dtype="bfloat16", remat="full"
    )
    config.data = dict(
        path="HuggingFaceH4/ultrafeedback_binarized", split="train_prefs", holdout=200
    )
    config.formatter = dict(preset="pair", too_long="cut")
    config.objective = dict(name="reward_model", loss="bradley_terry", center_weight=0.01)
    config.optimizer = dict(
        name="adamw", learning_rate=5e-6, schedule="linear", warmup_steps=100, weight_decay=0.01
    )
    config.batch = dict(prompts=32, tokens=512, micro_batches=4)

    config.every = dict(log=10, evaluate=500, save=500)
    config.keep = dict(last=1, best=1, metric="eval_accuracy")
    return config
