"""What a training run leaves in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def last_state(out: Path) -> dict[str, Any]:
    return torch.load(out / "last.ckpt", weights_only=True)
