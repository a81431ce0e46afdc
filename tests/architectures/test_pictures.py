"""Pictures: frames lie where theta points, and every network can be drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("einops")

from architectures import create_model
from architectures.pictures.calls import recorded_calls
from architectures.pictures.frames import frame_corners, frame_lines
from architectures.pictures.strips import COLOURS, calls_figure, picture, value_range
from architectures.training.curves import draw_curves, read_metrics
from architectures.training.scores import class_titles
from stn_triton import identity_theta, sampling_grid


@pytest.mark.parametrize(
    "transform", ["affine", "attention", "projective", "tps", "piecewise_affine"]
)
def test_the_lines_of_a_frame_lie_on_the_sampling_grid(transform: str) -> None:
    theta = identity_theta(transform, (2,))
    theta = theta + 0.1 * torch.rand(theta.shape)
    lines = frame_lines(theta, (20, 30), transform)
    assert len(lines) == (1 if transform in ("affine", "attention") else 7)
    corners = sampling_grid(theta, (2, 2), transform=transform, align_corners=True)
    corners = ((corners + 1) * torch.tensor((30, 20)) - 1) / 2
    outline = lines[0]
    torch.testing.assert_close(outline[:, 0], corners[:, 0, 0], rtol=0, atol=1e-3)
    torch.testing.assert_close(outline[:, -1], corners[:, 0, 0], rtol=0, atol=1e-3)
    side = len(outline[0]) // 4
    torch.testing.assert_close(outline[:, side], corners[:, 0, 1], rtol=0, atol=1e-3)
    if len(lines) > 1:  # the middle lines cross where the middle of the output is
        middle = sampling_grid(theta, (3, 3), transform=transform, align_corners=True)[:, 1, 1]
        middle = ((middle + 1) * torch.tensor((30, 20)) - 1) / 2
        for line in (lines[2], lines[5]):
            torch.testing.assert_close(line[:, 16], middle, rtol=0, atol=1e-3)


def test_the_frame_of_the_identity_is_the_edge_of_the_image() -> None:
    corners = frame_corners(identity_theta("affine", (1,)), (10, 20), "affine")
    assert corners[0].tolist() == [
        [-0.5, -0.5],
        [19.5, -0.5],
        [19.5, 9.5],
        [-0.5, 9.5],
        [-0.5, -0.5],
    ]


def test_with_align_corners_a_frame_runs_through_the_outermost_centres() -> None:
    theta = identity_theta("affine", (1,))
    corners = frame_corners(theta, (10, 20), "affine", align_corners=True)
    assert corners[0].tolist() == [[0, 0], [19, 0], [19, 9], [0, 9], [0, 0]]


def test_frames_of_volumes_are_boxes() -> None:
    lines = frame_lines(identity_theta("affine", (3,), ndim=3), (8, 10, 20), "affine")
    assert [tuple(line.shape) for line in lines] == [(3, 5, 2)] * 2 + [(3, 2, 2)] * 4
    for line in lines[:2]:
        assert line[0].min(0).values.tolist() == [-0.5, -0.5]
        assert line[0].max(0).values.tolist() == [19.5, 9.5]


@pytest.mark.parametrize(
    ("name", "options", "shape", "counts"),
    [
        ("mnist_fcn", {"image_size": 28}, (2, 1, 28, 28), []),
        ("mnist_st_fcn_tps", {"image_size": 28}, (2, 1, 28, 28), [1]),
        ("mnist_st_cnn_projective", {"image_size": 28}, (2, 1, 28, 28), [1]),
        ("mnist_addition_2st_fcn_affine", {}, (2, 2, 42, 42), [2]),
        ("colocalisation", {}, (2, 1, 84, 84), [1]),
        ("svhn_st_cnn_multi", {}, (1, 3, 64, 64), [1] * 4),
        ("mnist3d_st_cnn", {}, (1, 1, 60, 60, 60), [1]),
        ("mnist3d_cnn", {"filters": 2}, (1, 1, 60, 60, 60), []),
    ],
)  # fmt: skip
def test_networks_are_drawn(
    name: str, options: dict[str, Any], shape: tuple[int, ...], counts: list[int], tmp_path: Path
) -> None:
    network = create_model(name, **options).eval()
    images = torch.rand(shape)
    calls, _ = recorded_calls(network, images)
    assert [call.maps.shape[1] for call in calls] == counts
    boxes = (
        torch.tensor([[10.0, 10.0, 38.0, 38.0]] * shape[0]) if name == "colocalisation" else None
    )
    titles = [("7", True), ("1  (is 7)", False)][: shape[0]]
    figure = calls_figure(images, calls, heading=name, titles=titles, boxes=boxes)
    figure.savefig(tmp_path / "picture.png")
    content = (tmp_path / "picture.png").read_bytes()
    width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
    assert 250 < width < 4000 and 250 < height < 4000
    for call in calls:
        assert all(len(line) == shape[0] for one in call.lines(images) for line in one)
        assert call.frames_on == ("image" if call is calls[0] else "composed")


def test_titles_say_what_was_guessed_and_what_is() -> None:
    logits = torch.eye(4)[[2, 3]]
    assert class_titles(logits, torch.tensor([2, 1])) == [("2", True), ("3  (is 1)", False)]
    numbers = torch.tensor([[1, 9, 10, 10, 10], [10, 10, 10, 10, 10]])
    assert class_titles(torch.eye(11)[numbers], numbers.flip(0)) == [
        ("19  (is –)", False),
        ("–  (is 19)", False),
    ]


def test_pictures_of_every_kind_of_image() -> None:
    grey = torch.rand(1, 4, 6)
    torch.testing.assert_close(torch.from_numpy(picture(grey)), grey[0, ..., None].expand(4, 6, 3))
    colour = torch.rand(3, 4, 6)
    torch.testing.assert_close(torch.from_numpy(picture(colour)), colour.movedim(0, 2))
    two = torch.zeros(2, 4, 6)
    two[1, 0, 0] = 1
    shown = picture(two)
    assert shown.shape == (4, 6, 3) and shown[1:].max() == 0
    assert "#" + "".join(f"{round(255 * value):02x}" for value in shown[0, 0]) == COLOURS[1]
    volume = torch.rand(1, 5, 4, 6)
    torch.testing.assert_close(
        torch.from_numpy(picture(volume)), volume.amax(1).movedim(0, 2).expand(4, 6, 3)
    )
    many = torch.randn(7, 4, 6)
    least, most = value_range(many)
    mean = ((many.mean(0) - least) / (most - least))[..., None].expand(4, 6, 3)
    torch.testing.assert_close(torch.from_numpy(picture(many, (least, most))), mean)
    assert mean.min() == 0 and mean.max() == 1


def test_what_is_black_and_what_is_white() -> None:
    assert value_range(torch.tensor([[[0.2, 0.8]]])) == (0.0, 1.0)
    assert value_range(torch.tensor([[[-2.0, 0.5, torch.inf]]])) == (-2.0, 0.5)
    assert value_range(torch.full((1, 2, 2), torch.nan)) == (0.0, 1.0)
    assert value_range(torch.full((5, 2, 2), 3.0)) == (0.0, 1.0)
    shown = picture(torch.tensor([[[-2.0, 0.5, torch.inf, torch.nan]]]), (-2.0, 0.5))
    assert shown[0, :, 0].tolist() == [0, 1, 1, 0]


def test_curves_of_a_resumed_run_are_joined(tmp_path: Path) -> None:
    draw_curves(tmp_path)
    assert not list(tmp_path.iterdir())
    for version, rows in enumerate(("0,3.0\n1,2.0\n2,9.0", "2,1.5\n3,1.0")):
        folder = tmp_path / f"logs/version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(f"step,loss\n{rows}\n")
    assert read_metrics(tmp_path) == {"loss": [(0, 3.0), (1, 2.0), (2, 1.5), (3, 1.0)]}
    draw_curves(tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
