"""From settings to the optimizer and its schedule, and the network on its device."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reidlab.distributed import Processes
from reidlab.models import ReIDModel
from reidlab.training.config import TrainConfig


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Sort the weights that are trained by their rate and by whether they decay.

    Args:
        model: the network.
        config: `weight_decay` is for convolutions and linear layers, and with `decay_norm_bias` for norms and biases,
            too; `backbone_lr_mult` times `learning_rate` is for the backbone.

    Returns:
        Groups for an optimizer of torch, none of them empty.

    Example:
        >>> from reidlab.models import Baseline
        >>> groups = parameter_groups(Baseline(5), TrainConfig(backbone_lr_mult=0.1))
        >>> [(round(group["lr"], 6), group["weight_decay"], len(group["params"])) for group in groups]
        [(0.0002, 0.05, 10), (0.0002, 0.0, 26), (0.002, 0.05, 1), (0.002, 0.0, 1)]
    """
    of_backbone = getattr(model, "backbone_prefixes", ())
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    rates = dict.fromkeys((config.backbone_lr_mult, 1.0))
    for rate in rates:  # the order of groups does not depend on the order of the model's parts
        for decay in (config.weight_decay, 0.0):
            groups.setdefault((rate, decay), [])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            free = not config.decay_norm_bias and (parameter.ndim <= 1 or name.endswith("bias"))
            rate = config.backbone_lr_mult if name.startswith(of_backbone) and of_backbone else 1.0
            groups[rate, 0.0 if free else config.weight_decay].append(parameter)
    return [
        {"params": parameters, "lr": rate * config.learning_rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
        if parameters
    ]


def new_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimizer that the settings name, over all weights that are trained."""
    groups = parameter_groups(model, config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.learning_rate)


def warmup_iterations(config: TrainConfig) -> int:
    """Return how many iterations the rate rises; at least one if there is a warm-up at all.

    Example:
        >>> warmup_iterations(TrainConfig(iterations=250, warmup=0.1)), warmup_iterations(TrainConfig(warmup=0.0))
        (25, 0)
    """
    return max(1, round(config.warmup * config.iterations)) if config.warmup else 0


def new_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the schedule of the rate: a linear warm-up, then milestones or half a cosine.

    The warm-up of `n` iterations gives iteration i (from 1) the share s + (1 - s)·i/(n + 1) of the peak, where s is
    `warmup_start`, so that iteration n + 1 is the first at the peak.

    Example:
        >>> weights = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> config = TrainConfig(iterations=8, warmup=0.25, milestones=(0.5, 0.75), learning_rate=1.0)
        >>> rate, rates = new_schedule(weights, config), []
        >>> for _ in range(8):
        ...     rates.append(round(rate.get_last_lr()[0], 2))
        ...     weights.step()
        ...     rate.step()
        >>> rates
        [0.33, 0.67, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]

    Taught in: notebooks/06_training.ipynb
    """
    total, warm = config.iterations, warmup_iterations(config)
    schedulers = torch.optim.lr_scheduler
    if config.milestones:
        places = [round(share * total) - warm for share in config.milestones]
        fall: schedulers.LRScheduler = schedulers.MultiStepLR(optimizer, milestones=places, gamma=config.gamma)
    else:
        fall = schedulers.CosineAnnealingLR(optimizer, T_max=max(1, total - warm))
    if not warm:
        return fall
    first = config.warmup_start + (1 - config.warmup_start) / (warm + 1)
    rise = schedulers.LinearLR(optimizer, start_factor=first, total_iters=warm)
    return schedulers.SequentialLR(optimizer, [rise, fall], milestones=[warm])


def unwrapped(model: ReIDModel | None) -> ReIDModel | None:
    """The network inside what torch.compile and DataParallel make; `config.compile` compiles the forward pass."""
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)) or hasattr(model, "_orig_mod"):
        model = getattr(model, "_orig_mod", None) or model.module
    return model


def placed(model: ReIDModel, config: TrainConfig, device: str, processes: Processes) -> ReIDModel:
    """Return the model on the device, in training mode, with batch norm as the settings have it."""
    if config.batch_norm == "synced":
        if not device.startswith("cuda"):
            raise ValueError(f"batch_norm='synced' on {device}: torch has it on GPUs only; use batch_norm='local'")
        if processes.size == 1:
            raise ValueError("batch_norm='synced' with one process: there is nothing to sync; use batch_norm='local'")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model.to(device, memory_format=torch.channels_last).train()
