"""`draw`: it finds the transformers of any network, says where they look, and leaves everything as it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("matplotlib")

from architectures import ParallelSTN, SerialSTN, StackedSTN, create_model, draw
from architectures.pictures.calls import Call, recorded_calls
from stn_triton import SpatialTransformer, compose, identity_theta, st_sample
from stn_triton.transforms import TRANSFORMS
from support import ROOT

N, H, W = 2, 12, 16
OWN = [[0.5, 0.1, 0.2], [-0.1, 0.6, -0.1]]
TURNED = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]


def transformer(
    initial: Any = None, size: tuple[int, int] | None = None, channels: int = 1, **options: Any
) -> SpatialTransformer:
    look = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return SpatialTransformer(
        look, size, in_features=4 * channels, initial_theta=initial, **options
    )


class Deep(nn.Module):
    """A network that knows nothing of `draw`: it normalises, works in place, has dropout and draws random numbers."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(True))
        self.inner = nn.ModuleDict(
            {"crop": transformer(OWN, (6, 5), channels=5, num_transformers=3)}
        )
        self.rest = nn.Sequential(nn.BatchNorm2d(5), nn.Dropout(), nn.ReLU(True))
        self.fails = fails

    def forward(self, x: Tensor) -> Tensor:
        x += torch.rand(())
        maps = self.inner["crop"](self.features(x))
        if self.fails:
            raise ArithmeticError("half way")
        return self.rest(maps.flatten(0, 1))


def calls(network: nn.Module, images: Tensor | None = None) -> list[Call]:
    return recorded_calls(network, torch.rand(N, 1, H, W) if images is None else images)[0]


def frames(network: nn.Module) -> list[str]:
    return [call.frames_on for call in calls(network)]


def texts(figure: Any) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


def test_a_network_that_does_not_cooperate() -> None:
    network = Deep()
    images = torch.rand(N, 1, H, W)
    (call,) = calls(network, images)
    assert call.name == "inner.crop" and call.frames_on == "source"
    assert call.source.shape == (N, 5, H, W) and call.maps.shape == (N, 3, 5, 6, 5)
    torch.testing.assert_close(call.theta, torch.tensor(OWN).expand(N, 3, 2, 3))
    wanted = st_sample(call.source, call.theta, (6, 5))
    torch.testing.assert_close(
        call.maps, wanted, msg="as it was before the network went on in place"
    )
    said = texts(draw(network, images))
    assert "Deep" in said and "inner.crop: affine × 3, 5 × 12 × 16 → 5 × 6 × 5" in said
    assert "on what it samples (mean of 5 channels)" in said


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_as_it_was(fails: bool) -> None:
    network = Deep(fails).train()
    network.rest[1].eval()
    inner = network.inner["crop"]
    own = inner.sample
    inner.sample = lambda *arguments: own(*arguments)  # somebody else's wrapping stays
    theirs = inner.sample
    flags = [module.training for module in network.modules()]
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(N, 1, H, W)
    before = images.clone()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    if fails:
        with pytest.raises(ArithmeticError, match="half way"):
            draw(network, images)
    else:
        draw(network, images)
    assert torch.equal(torch.rand(3), expected)
    assert torch.is_grad_enabled()
    assert [module.training for module in network.modules()] == flags
    assert vars(inner)["sample"] is theirs
    del inner.sample
    assert "sample" not in vars(inner) and not network._forward_pre_hooks
    assert torch.equal(images, before)
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_no_hook_and_no_wrapping_is_left() -> None:
    network = StackedSTN([nn.Conv2d(1, 1, 3)], nn.Flatten(), transformers=[transformer()])
    draw(network, torch.rand(N, 1, H, W))
    assert not network._forward_pre_hooks and "sample" not in vars(network.transformers[0])


@pytest.mark.parametrize("compose_them", [False, True])
def test_frames_of_a_row_are_composed_onto_the_image(compose_them: bool) -> None:
    row = [
        transformer(OWN),
        transformer([0.5, 0.2, 0.1], (5, 7), transform="attention"),
        transformer(TURNED),
    ]
    found = calls(SerialSTN(row, nn.Flatten(), compose=compose_them))
    kind = "image" if compose_them else "composed"
    assert [call.frames_on for call in found] == ["image", kind, kind]
    product = torch.tensor(OWN)
    for call, theta in zip(found[1:], ([[0.5, 0, 0.2], [0, 0.5, 0.1]], TURNED), strict=True):
        product = compose(product, torch.tensor(theta))
        assert call.composed is not None
        torch.testing.assert_close(call.composed, product.expand(N, 1, 2, 3))
        corner = call.lines(torch.zeros(N, 1, H, W))[0][0][:, 0]
        at = product @ torch.tensor([-1.0, -1.0, 1.0])
        wanted = ((at + 1) * torch.tensor([W, H]) - 1) / 2
        torch.testing.assert_close(corner, wanted.expand(N, 2))


def test_stages_keep_coordinates() -> None:
    stages = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU()]
    row = [None, transformer(OWN, channels=4), None, transformer(TURNED, channels=4)]
    network = StackedSTN(stages, nn.Flatten(), transformers=row)
    found = calls(nn.Sequential(network, nn.Identity()))
    assert [call.frames_on for call in found] == ["composed", "composed"], (
        "feature maps are no images"
    )
    assert [call.name for call in found] == ["0.transformers.0", "0.transformers.1"]
    product = compose(torch.tensor(OWN), torch.tensor(TURNED))
    assert found[1].composed is not None
    torch.testing.assert_close(found[1].composed, product.expand(N, 1, 2, 3))


def test_where_nothing_can_be_said_the_frame_is_on_what_is_sampled() -> None:
    bent = transformer(transform="tps")
    assert frames(SerialSTN([bent, transformer(OWN)], nn.Flatten())) == ["image", "source"]
    assert frames(SerialSTN([transformer(OWN), bent], nn.Flatten())) == ["image", "source"]
    corners = transformer(align_corners=True)
    assert frames(SerialSTN([corners, transformer()], nn.Flatten())) == ["image", "source"]
    assert frames(nn.Sequential(nn.Sigmoid(), transformer())) == ["source"]
    assert frames(nn.Sequential(nn.Identity(), transformer())) == ["image"]
    assert (
        frames(nn.Sequential(nn.Conv2d(1, 1, 3), SerialSTN([bent, bent], nn.Flatten())))
        == ["source"] * 2
    )


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_every_transform_is_drawn(transform: str) -> None:
    network = transformer(transform=transform, num_transformers=2, padding_mode="border")
    figure = draw(network, torch.rand(N, 1, H, W))
    assert f"{transform} × 2" in texts(figure) and "SpatialTransformer" in texts(figure)
    assert len(figure.axes) == N * (1 + 2)


def test_parallel_networks_with_several_sizes_have_a_panel_for_each_launch() -> None:
    network = ParallelSTN(
        nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), nn.AdaptiveAvgPool2d(1), nn.Identity(),
        in_features=4, num_transformers=3, out_size=[(4, 5), None, (4, 5)],
        transform=["attention", "projective", "attention"],
    )  # fmt: skip
    found = calls(network)
    assert [(call.name, call.maps.shape[1]) for call in found] == [
        ("transformers.0", 2),
        ("transformers.1", 1),
    ]
    assert len(draw(network, torch.rand(N, 1, H, W)).axes) == N * (1 + 2 + 1 + 1)


@pytest.mark.parametrize(
    "shape", [(1, 1, 9, 9), (6, 3, 9, 14), (2, 2, 14, 9), (2, 7, 9, 9)], ids=str
)
def test_images_of_all_kinds(shape: tuple[int, ...]) -> None:
    network = transformer(channels=shape[1])
    figure = draw(network, 5 * torch.randn(shape))
    assert len(figure.axes) == 2 * min(shape[0], 4)
    assert ("mean of 7 channels" in texts(figure)) == (shape[1] == 7)


def test_volumes_are_seen_along_their_depth() -> None:
    look = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten())
    row = [SpatialTransformer(look, (4, 5, 6), in_features=1) for _ in range(2)]
    network = SerialSTN(row, nn.Flatten())
    images = torch.rand(N, 1, 7, 8, 9)
    assert [call.frames_on for call in calls(network, images)] == ["image", "composed"]
    assert "along the depth" in texts(draw(network, images))


def test_frames_are_whole_and_their_first_corner_is_marked() -> None:
    theta = torch.tensor([[-2.0, 0.0, 0.5], [0.0, 1.5, 0.0]])  # flipped, and larger than the image
    figure = draw(transformer(theta.tolist()), torch.rand(1, 1, H, W))
    canvas = figure.axes[0]
    left, right = canvas.get_xlim()
    bottom, top = canvas.get_ylim()
    outline, mark = (line.get_xydata() for line in canvas.lines)
    assert (outline[:, 0] > left).all() and (outline[:, 0] < right).all()
    assert (outline[:, 1] > top).all() and (outline[:, 1] < bottom).all()
    at = theta @ torch.tensor([-1.0, -1.0, 1.0])
    wanted = ((at + 1) * torch.tensor([W, H]) - 1) / 2
    torch.testing.assert_close(torch.tensor(mark[0]).float(), wanted)
    assert mark[0][0] > W, "the upper left corner of the output lies to the right"


def test_frames_at_infinity_do_not_hide_the_image() -> None:
    far = [1.0, 0, 0, 0, 1.0, 0, 1.0, 0]  # the third coordinate is 0 at the left edge
    for transform, initial in (("projective", far), ("affine", [[1e9, 0, 0], [0, 1e9, 0]])):
        figure = draw(transformer(initial, transform=transform), torch.rand(1, 1, H, W))
        left, right = figure.axes[0].get_xlim()
        assert right - left < 10 * W


def overlaps(figure: Any) -> list[str]:
    """The texts and pictures that overlap, or reach beyond the figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [("text " + text.get_text(), text.get_window_extent(renderer)) for text in figure.texts]
    boxes += [(f"axes {i}", axes.get_window_extent(renderer)) for i, axes in enumerate(figure.axes)]
    width, height = figure.bbox.width, figure.bbox.height
    wrong = [
        name for name, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height
    ]
    for i, (name, box) in enumerate(boxes):
        wrong += [
            f"{name} on {other}" for other, its in boxes[i + 1 :]
            if min(box.x1, its.x1) - max(box.x0, its.x0) > 1 and min(box.y1, its.y1) - max(box.y0, its.y0) > 1
        ]  # fmt: skip
    return wrong


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: create_model("svhn_st_cnn_multi", width=0.1), (5, 3, 64, 64)),
        (lambda: create_model("mnist_addition_2st_fcn_tps"), (2, 2, 42, 42)),
        (lambda: nn.Sequential(transformer(num_transformers=11)), (1, 1, 8, 30)),
        (lambda: SerialSTN([transformer(), transformer(transform="tps")], nn.Flatten()), (4, 1, 9, 9)),
    ],
)  # fmt: skip
def test_nothing_overlaps(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    assert overlaps(draw(build(), torch.rand(shape))) == []


def test_compiled_networks() -> None:
    network = torch.compile(transformer(OWN), fullgraph=True, backend="aot_eager")
    (call,) = calls(network)
    assert call.name == "SpatialTransformer" and call.frames_on == "image"
    network(torch.rand(N, 1, H, W))


def test_what_is_refused() -> None:
    images = torch.rand(N, 1, H, W)
    with pytest.raises(TypeError, match=r"network must be an nn\.Module, got builtin"):
        draw(len, images)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="images must be a tensor, got list"):
        draw(transformer(), [images])  # type: ignore[arg-type]
    for wrong in (images[0], images[:0]):
        with pytest.raises(ValueError, match=r"images must be \(N, C, H, W\)"):
            draw(transformer(), wrong)
    with pytest.raises(ValueError, match="SpatialTransformer inside, got Sequential without any"):
        draw(nn.Sequential(nn.ReLU()), images)
    idle = nn.Identity()
    idle.never = transformer()
    with pytest.raises(ValueError, match="called none"):
        draw(idle, images)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("architectures.pictures.strips", "architectures.pictures.figures"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"matplotlib: pip install 'stn-triton\[draw\]'"):
        draw(transformer(), torch.rand(N, 1, H, W))


@pytest.mark.slow
def test_importing_needs_no_matplotlib() -> None:
    script = "import sys; from architectures import draw; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_identity_shows_the_image() -> None:
    images = torch.rand(N, 1, H, W)
    (call,) = calls(transformer(), images)
    torch.testing.assert_close(call.maps[:, 0], images)
    assert torch.equal(call.theta[:, 0], identity_theta("affine", (N,)))
