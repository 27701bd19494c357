"""Full fine-tuning steps with PyTorch and transformers, as their users write them: `pytorch_step.py STEPS [MODE]`.

Modes: `f32`, `autocast` (bfloat16 in the forward pass), `bf16` (weights and states in bfloat16), each also with `-compiled`.
"""

import contextlib
import os
import sys
import time

import torch
import transformers

import shape


def main(steps, mode):
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape.CONFIG)).train()
    kind, _, compiled = mode.partition("-")
    if kind == "bf16":
        model = model.bfloat16()
    autocast = lambda: torch.autocast("cpu", torch.bfloat16) if kind == "autocast" else contextlib.nullcontext()
    if os.environ.get("CHECKPOINT"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # What transformers' Trainer does by default: the fused AdamW, and clipping at 1.0.
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=shape.LEARNING_RATE, weight_decay=shape.WEIGHT_DECAY, fused=True
    )
    forward = torch.compile(model) if compiled else model
    step_s = []
    for _ in range(steps + shape.WARM_UP):
        ids = torch.randint(0, shape.CONFIG["vocab_size"], (shape.BATCH, shape.LENGTH))
        start = time.perf_counter()
        with autocast():
            loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        step_s.append(time.perf_counter() - start)
    shape.report(step_s, mode=mode, torch=torch.__version__, transformers=transformers.__version__, threads=torch.get_num_threads())


main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "f32")
