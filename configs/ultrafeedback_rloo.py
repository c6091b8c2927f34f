r"""RLOO on UltraFeedback's prompts against a reward model, with the settings of arXiv:2506.21560.

    rlft train --config=configs/ultrafeedback_rloo.py --workdir=runs/ultrafeedback_rloo \
        --config.model.path=runs/smoltalk_sft \
        --config.reward.models="{'helpful': 'runs/ultrafeedback_siamese'}"

The reward model is a run of configs/ultrafeedback_siamese.py or
configs/ultrafeedback_regression.py, a folder, or a name on the hub with safetensors
(configs/ultrafeedback_deberta.py says what to do about OpenAssistant's). Prompts of your own:
--config.data.path=FILE.jsonl --config.data.split=train with `prompt` or `messages`.

From the authors' code come 4 responses a prompt, the weight 0.03 of the KL in the reward, batch 32,
learning rate 5e-6, one epoch and temperature 0.7. They sampled at most 53 tokens, a default of
their library that they did not set; here a response may have 512.

Written for one accelerator of 40 GiB or more; not measured yet.
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
        path="HuggingFaceH4/ultrafeedback_binarized",
        split="train_gen",
        template="chat",
        holdout=200,
    )
    config.rollout = dict(responses=4, missing_stop_penalty=1.0)
    config.sampling = dict(max_new_tokens=512, temperature=0.7)
    config.reward = dict(functions=[("helpful", 1.0)])
    config.objective = dict(name="rloo", preset="trl")
    config.advantages = dict(kl_weight=0.03)
    config.optimizer = dict(
        name="adamw", learning_rate=5e-6, schedule="linear", warmup_steps=20, clip_norm=1.0
    )
    config.batch = dict(prompts=32, tokens=1024, micro_batches=8)

    config.every = dict(log=1, evaluate=100, save=100, samples=10)
    config.keep = dict(last=1, best=1, metric="eval_reward")
    config.evaluation = dict(samples=1, max_new_tokens=512, temperature=0.7)
    return config
