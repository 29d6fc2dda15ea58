"""Students that PyTorch trains: convolutional networks for pictures, perceptrons for all else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from headrace_engines.compress.scaling import Scaling, flat
from headrace_engines.compress.steps import Distil
from headrace_engines.compress.students import Layer
from headrace_engines.progress import Progress

_CHANNELS: Final = (16, 32)
_STRIDE: Final = 2
_LEARNING_RATE: Final = 3e-3


def train(
    inputs: list[NDArray[Any]], sums: NDArray[np.float32], how: Distil, progress: Progress
) -> list[Layer]:
    """Return the layers of a network that adds up, for each row of the inputs, to its row of `sums`.

    One input of three dimensions (channels, height, width) is a picture. The same rows give the same
    layers.
    """
    is_picture = len(inputs) == 1 and inputs[0].ndim == 4
    rows = inputs[0].astype(np.float32) if is_picture else flat(inputs)
    given, wanted = Scaling.of(rows), Scaling.of(sums)
    with _reproducible(how.seed):
        network = _network(rows.shape[1:], sums.shape[1], how)
        _fit(network, rows if is_picture else given.scaled(rows), wanted.scaled(sums), how, progress)
    layers = [_layer(module) for module in network if isinstance(module, nn.Conv2d | nn.Linear)]
    return wanted.after(layers if is_picture else given.before(layers))


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Draw and add up in the same way each time, and leave PyTorch as it was."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _network(dims: tuple[int, ...], outputs: int, how: Distil) -> nn.Sequential:
    modules: list[nn.Module] = []
    size = int(np.prod(dims))
    if len(dims) == 3:
        before, height, width = dims
        for after in _CHANNELS:
            modules += [nn.Conv2d(before, after, 3, _STRIDE, padding=1), nn.ReLU()]
            before, height, width = after, -(-height // _STRIDE), -(-width // _STRIDE)
        modules.append(nn.Flatten())
        size = before * height * width
    for _ in range(how.layers if len(dims) == 1 else 1):
        modules += [nn.Linear(size, how.hidden), nn.ReLU()]
        size = how.hidden
    return nn.Sequential(*modules, nn.Linear(size, outputs))


def _fit(
    network: nn.Sequential,
    rows: NDArray[np.float32],
    wanted: NDArray[np.float32],
    how: Distil,
    progress: Progress,
) -> None:
    lessons, answers = torch.from_numpy(np.ascontiguousarray(rows)), torch.from_numpy(wanted)
    optimiser = torch.optim.Adam(network.parameters(), _LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, how.epochs)
    for epoch in range(how.epochs):
        progress("training a student", epoch / how.epochs)
        for chosen in torch.randperm(len(lessons)).split(how.batch):
            optimiser.zero_grad()
            loss = nn.functional.mse_loss(network(lessons[chosen]), answers[chosen])
            loss.backward()
            optimiser.step()
        schedule.step()


def _layer(module: nn.Conv2d | nn.Linear) -> Layer:
    weights, bias = (parameter.detach().numpy() for parameter in (module.weight, module.bias))
    if isinstance(module, nn.Linear):
        return Layer(np.ascontiguousarray(weights.T), bias)
    return Layer(weights, bias, _STRIDE)
