"""A transformer in front of a backbone that was trained before; it learns ten times more slowly than the backbone.

    python examples/finetune_backbone.py

The backbone is torchvision's or timm's ResNet-18, whichever is installed, or else a small stand-in. Weights are not
downloaded here. For trained ones pass `weights="DEFAULT"` to torchvision's function, or `pretrained=True` to timm's.
"""

import importlib.util

import torch
from torch import Tensor, nn

from architectures import SerialSTN, parameter_groups
from stn_triton import SpatialTransformer


def backbone(num_classes: int) -> nn.Module:
    """Images (N, 3, 64, 64) -> logits (N, num_classes)."""
    if importlib.util.find_spec("torchvision"):
        from torchvision.models import resnet18

        return resnet18(num_classes=num_classes)
    if importlib.util.find_spec("timm"):
        import timm

        return timm.create_model("resnet18", num_classes=num_classes)
    return nn.Sequential(
        nn.Conv2d(3, 16, 7, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, num_classes)
    )  # fmt: skip


def network(num_classes: int) -> nn.Module:
    """Images (N, 3, 128, 128) -> logits: half of the image, found by the transformer, at the backbone's size."""
    look = nn.Sequential(
        nn.AvgPool2d(4), nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 32), nn.ReLU()
    )  # fmt: skip
    where = SpatialTransformer(
        look,
        (64, 64),
        in_features=32,
        transform="attention",
        fixed_scale=0.5,
        padding_mode="border",
    )
    return SerialSTN([where], backbone(num_classes))


def main(steps: int = 10) -> list[float]:
    """Fine-tune on a few random images, and give the losses."""
    torch.manual_seed(0)
    model = network(num_classes=4)
    # The paper learns where to look ten to ten thousand times more slowly than what to see.
    groups = parameter_groups(model, lr=1e-3, localisation_lr_multiplier=0.1, weight_decay=1e-4)
    optimiser = torch.optim.AdamW(groups)
    images: Tensor = torch.rand(8, 3, 128, 128)
    labels = torch.arange(8) % 4
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    losses = main()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
