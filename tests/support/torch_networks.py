"""PyTorch modules as people write them, each with weights of its own that are the same every time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn


class Mlp(nn.Module):
    """100-50-10."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Dropout(0.5), nn.Linear(50, 10))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers(features)


class Cnn(nn.Module):
    """Pictures of digits, with a shortcut around a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.out = nn.Linear(128, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.first(image)
        x = nn.functional.max_pool2d(torch.relu(x + self.second(x)), 2)
        return self.out(x.flatten(1))


class Encoder(nn.Module):
    """A transformer's encoder over token ids, which leaves padding out, with two named answers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.out = nn.Linear(16, 3)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.encoder(self.embed(tokens), src_key_padding_mask=mask == 0)
        weights = mask.unsqueeze(-1)
        return {"logits": self.out((hidden * weights).sum(1) / weights.sum(1)), "hidden": hidden}


class Answer(NamedTuple):
    steps: torch.Tensor
    level: torch.Tensor


class Recurrent(nn.Module):
    """An LSTM and a GRU over the same steps, scaled by a second input; the third has a default."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True)
        self.gru = nn.GRU(4, 8, batch_first=True, bidirectional=True)
        self.out = nn.Linear(24, 3)

    def forward(self, steps: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor | None = None) -> Answer:
        lstm, _ = self.lstm(steps)
        gru, _ = self.gru(steps)
        out = self.out(torch.cat([lstm, gru], -1)) * scale.unsqueeze(1)
        return Answer(out if shift is None else out + shift, out.mean((1, 2)).unsqueeze(-1))


class Tied(nn.Module):
    """Two layers with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(5, 5)
        self.two = nn.Linear(5, 5)
        self.two.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.one(x), self.two(torch.tanh(x))


def seeded(make: type[nn.Module]) -> nn.Module:
    """Return a module with the same weights each time, in evaluation mode."""
    torch.manual_seed(0)
    return make().eval()


def mlp() -> nn.Module:
    return seeded(Mlp)


def cnn() -> nn.Module:
    return seeded(Cnn)


def encoder() -> nn.Module:
    return seeded(Encoder)


def recurrent() -> nn.Module:
    return seeded(Recurrent)


def tied() -> nn.Module:
    return seeded(Tied)


def no_module() -> int:
    return 3


def raises() -> nn.Module:
    raise RuntimeError("out of order")
