"""Sum a tensor over two GPUs of this machine with NCCL, one process per GPU. emage.on_ray.programs.doctor starts it."""

import os

import torch
import torch.distributed as dist

if __name__ == "__main__":
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    ones = torch.ones(1 << 20, device="cuda")
    dist.all_reduce(ones)
    assert (ones == dist.get_world_size()).all(), "the sum is wrong"
    dist.destroy_process_group()
