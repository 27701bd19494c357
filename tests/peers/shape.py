"""The model, the batch and the way of counting that every contender shares."""

import json
import os
import resource
import statistics
import sys

# Hidden size, layers, heads, key/value heads, intermediate size, vocabulary, rows of a batch.
SHAPES = {
    "5m": (256, 4, 8, 4, 768, 8192, 8),
    "26m": (512, 6, 8, 4, 1408, 16384, 8),
    "100m": (768, 12, 12, 4, 2048, 32000, 4),
}
HIDDEN, LAYERS, HEADS, KV_HEADS, INTERMEDIATE, VOCABULARY, ROWS = SHAPES[os.environ.get("SHAPE", "5m")]
BATCH = int(os.environ.get("BATCH", ROWS))
LENGTH = int(os.environ.get("LENGTH", 256))  # positions that the model sees in each row
CONFIG = dict(
    hidden_size=HIDDEN,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS,
    intermediate_size=INTERMEDIATE,
    vocab_size=VOCABULARY,
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
