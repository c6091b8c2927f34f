"""Times transformers' `generate` on the model that `against_peers.py` wrote, in its own precision.

    python transformers_steps.py --what=decode --folder=FOLDER --batch=16 --new=32 --json=OUT

Needs torch and transformers, nothing of this project. The first call does not count.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers

WARMUP = 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=("decode",), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    for name, default in (("batch", 16), ("tokens", 64), ("new", 64), ("steps", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.folder / "model")
    model = model.to(device).eval()
    torch.manual_seed(0)
    shape = (arguments.batch, arguments.tokens)
    ids = torch.randint(300, model.config.vocab_size, shape, device=device)
    how = dict(do_sample=True, top_k=0, top_p=1.0, temperature=1.0)
    how |= dict(min_new_tokens=arguments.new, max_new_tokens=arguments.new)

    def call():
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), **how)
        assert out.shape[1] == arguments.tokens + arguments.new
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds = statistics.median([call() for _ in range(WARMUP + arguments.steps)][WARMUP:])
    found = {
        "call_seconds": seconds,
        "new_tokens_per_second": arguments.batch * arguments.new / seconds,
        "dtype": str(model.dtype),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    arguments.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
