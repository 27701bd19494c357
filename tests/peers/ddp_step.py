"""Full fine-tuning steps by torch's DistributedDataParallel over Gloo, one process per rank, as `torchrun` starts them:

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… ddp_step.py STEPS [bf16]

The model and the optimizer of pytorch_step.py. Each rank has BATCH rows. `bf16` compresses gradients by DDP's own hook. Rank 0 prints
the seconds of each step when it is made.
"""

import os
import sys
import time

import torch
import torch.distributed as dist
import transformers
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

import shape


def main(steps, compression):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape.CONFIG)).train()
    ddp = torch.nn.parallel.DistributedDataParallel(model)
    if compression == "bf16":
        ddp.register_comm_hook(None, bf16_compress_hook)
    optimizer = torch.optim.AdamW(model.parameters(), lr=shape.LEARNING_RATE, weight_decay=shape.WEIGHT_DECAY, fused=True)
    torch.manual_seed(1 + dist.get_rank())
    for _ in range(steps):
        ids = torch.randint(0, shape.CONFIG["vocab_size"], (shape.BATCH, shape.LENGTH))
        start = time.perf_counter()
        loss = ddp(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        if dist.get_rank() == 0:
            print(time.perf_counter() - start, flush=True)
    dist.destroy_process_group()


main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
