"""The model, the batch and the way of counting that every contender shares."""

import json
import os
import resource
import statistics
import sys

BATCH = int(os.environ.get("BATCH", 8))
LENGTH = int(os.environ.get("LENGTH", 256))  # positions that the model sees in each row
CONFIG = dict(
    hidden_size=256,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
    intermediate_size=768,
    vocab_size=8192,
    max_position_embeddings=max(512, LENGTH),
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
)
LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.01
WARM_UP = 1  # steps that are not counted: compilation, first allocation


def report(step_s, **facts):
    """Prints a contender's answer: the last line of its output, one JSON object."""
    step_s = step_s[WARM_UP:]
    median = statistics.median(step_s)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes on macOS, KiB elsewhere
    answer = {
        "tokens_per_s": BATCH * LENGTH / median,
        "step_s_median": median,
        "step_s_min": min(step_s),
        "step_s_max": max(step_s),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "step_s": step_s,
        **facts,
    }
    print("\n" + json.dumps(answer), flush=True)
