"""Full fine-tuning steps with stock mlx-lm, in its own training loop: `mlx_lm_step.py STEPS`."""

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx_lm.models.llama import Model, ModelArgs
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.trainer import TrainingArgs, train

import shape


class StepTimes(TrainingCallback):
    """mlx-lm times each step itself; a report after every step makes it one time each."""

    def __init__(self):
        self.step_s = []

    def on_train_loss_report(self, train_info):
        self.step_s.append(1 / train_info["iterations_per_second"])


def main(steps):
    mx.random.seed(0)
    model = Model(ModelArgs(model_type="llama", **shape.CONFIG))
    mx.eval(model.parameters())
    steps += shape.WARM_UP
    # One token more than the model sees: mlx-lm shifts inputs against targets.
    generator = np.random.default_rng(0)
    rows = generator.integers(1, shape.CONFIG["vocab_size"], (shape.BATCH * steps, shape.LENGTH + 1))
    times = StepTimes()
    with tempfile.TemporaryDirectory() as directory:
        train(
            model=model,
            optimizer=optim.AdamW(learning_rate=shape.LEARNING_RATE, weight_decay=shape.WEIGHT_DECAY),
            train_dataset=[(row, 0) for row in rows.tolist()],
            val_dataset=None,
            args=TrainingArgs(
                batch_size=shape.BATCH,
                iters=steps,
                steps_per_report=1,
                steps_per_save=steps + 1,
                max_seq_length=shape.LENGTH + 1,
                adapter_file=str(Path(directory) / "weights.safetensors"),
            ),
            training_callback=times,
        )
    shape.report(times.step_s, mlx=version("mlx"), mlx_lm=version("mlx-lm"), device=str(mx.default_device()))


main(int(sys.argv[1]))
