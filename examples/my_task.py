"""A model of your own: `autocompress search --task examples/my_task.py:build`."""

import torch
import torch.nn.functional as F
from torch import nn

from autocompress.tasks import Task, classification


def build() -> Task:
    """A small convolutional net that tells vertical from horizontal stripes, on made-up images."""
    images, labels = stripes(600)
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2))
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), *head)
    train(model, images[:400], labels[:400])  # yours is trained already: load its weights here instead
    parts = [(images[first:last], labels[first:last]) for first, last in ((0, 400), (400, 500), (500, 600))]
    return classification("stripes", model, *parts)


def stripes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy stripes of two pixels, `[n, 1, 16, 16]`, and 0 for vertical or 1 for horizontal ones."""
    labels = torch.arange(count) % 2
    vertical = (torch.arange(16) // 2 % 2).float().expand(16, 16)
    images = torch.where(labels[:, None, None] == 0, vertical, vertical.T).unsqueeze(1)
    return images + 0.5 * torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(0)), labels


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Sixty steps of Adam, about a second."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
