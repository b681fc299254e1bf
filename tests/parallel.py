"""A training function of several processes; in a file of its own, so that only its workers import PyTorch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn


def parallel(trial):
    """A small model with dropout under DistributedDataParallel; each rank has data and random numbers of its own."""
    dist.init_process_group("gloo")
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))
    whole = nn.parallel.DistributedDataParallel(net)
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(dist.get_rank()))
    if trial.start == 0:
        torch.rand(dist.get_rank())
    for _ in trial.epochs(model=net):
        whole.train()
        for part in x.split(8):
            whole.zero_grad()
            nn.functional.mse_loss(whole(part), part.sum(1, keepdim=True)).backward()
            with torch.no_grad():
                for weight in net.parameters():
                    weight -= trial.config["learning_rate"] * weight.grad
        net.eval()
        loss, drawn = nn.functional.mse_loss(net(x), x.sum(1, keepdim=True)).detach(), torch.rand(2)[dist.get_rank()]
        dist.all_reduce(loss)
        dist.all_reduce(drawn)
        if trial.rank == 0:
            trial.report(val_loss=loss / dist.get_world_size(), drawn=drawn)
    dist.barrier()  # else gloo may still hold the last collective's tensor as its group ends, and hang
    dist.destroy_process_group()
