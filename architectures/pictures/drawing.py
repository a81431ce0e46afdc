"""Pictures of any network's transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = 4


def draw(network: nn.Module, images: Tensor) -> Figure:
    """A figure of what each `SpatialTransformer` inside a network looks at and what it sees.

    The network may be any module that reads images; it is run once on the first four of them, in evaluation mode and
    without gradients, and is left as it was, also when it raises.

    The figure has a strip for each call of a transformer, in the order of the calls, and in it for each image:

    - The image with the frame of each transformation on it: the map of the output's border, in full (what is more
      than four image sizes away is cut), and where it bends, lines of the output's lattice. A dot marks the output's
      upper left corner, so that flips and turns show. A transformer that reads the map of another one, in `SerialSTN`
      or anywhere, or a feature map in `StackedSTN`, has its frame composed onto the image as long as all
      transformations so far are affine or attention. Else the frame is on what the transformer samples. The strip's
      title says which.
    - What it sees there, in the colour of its frame.

    Pictures of one channel are grey, those of two are light of two colours, those of three are colours; of more, the
    mean of the channels is shown. Values beyond [0, 1], and means, are scaled from their least to their largest.
    Volumes are seen along their depth, where their brightest voxels are, with the edges of their frames.

    Shapes: images (N, C, H, W) or (N, C, D, H, W), of whatever the network reads.

    Returns:
        A matplotlib figure, which belongs to no window: `figure.savefig("picture.png")`; a notebook shows it.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; the message names the extra `draw`.
        TypeError: not a module, not a tensor.
        ValueError: no images, or not of that shape; a network without transformers, or that called none of them.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be an nn.Module, got {type(network).__name__}")
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, got {type(images).__name__}")
    if images.dim() not in (4, 5) or 0 in images.shape:
        raise ValueError(
            f"images must be (N, C, H, W) or (N, C, D, H, W) with N at least 1, got {tuple(images.shape)}"
        )
    try:
        from .strips import calls_figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"drawing needs {error.name}: pip install 'stn-triton[draw]'", name=error.name
        ) from None
    from .calls import has_transformers, recorded_calls

    few = images[:_ROWS].detach()
    if not has_transformers(network):
        raise ValueError(
            f"network must have a SpatialTransformer inside, got {type(network).__name__} without any"
        )
    calls, _ = recorded_calls(network, few)
    if not calls:
        raise ValueError("network must sample by its transformers, but called none of them")
    return calls_figure(few, calls, heading=type(network).__name__)
