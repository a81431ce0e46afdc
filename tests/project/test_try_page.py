"""The page on which one draws two digits: built, opened as a file by Chromium, drawn on, compared with PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

for package in ("einops", "matplotlib", "mlxtend", "onnxruntime", "onnxscript", "lightning"):
    pytest.importorskip(package)

from architectures import create_model
from docs.tools import try_page
from stn_triton import st_sample
from support.chromium import CHROMIUM, Page, chromium

Points = list[tuple[float, float]]


def arc(x: float, y: float, width: float, height: float, first: float, last: float) -> Points:
    """Points of an ellipse, between two angles in degrees."""
    angles = [math.radians(first + (last - first) * i / 16) for i in range(17)]
    return [(x + width * math.cos(a), y + height * math.sin(a)) for a in angles]


def line(*corners: tuple[float, float]) -> Points:
    points = [corners[0]]
    for (x0, y0), (x1, y1) in pairwise(corners):
        points += [(x0 + (x1 - x0) * i / 6, y0 + (y1 - y0) * i / 6) for i in range(1, 7)]
    return points


DRAWINGS: dict[int, list[Points]] = {
    0: [arc(0.5, 0.5, 0.2, 0.3, -90, 270)],
    1: [line((0.52, 0.2), (0.48, 0.8))],
    3: [arc(0.45, 0.35, 0.2, 0.16, -150, 90) + arc(0.45, 0.67, 0.22, 0.17, -90, 150)],
    4: [line((0.35, 0.2), (0.3, 0.5), (0.7, 0.5)), line((0.65, 0.2), (0.6, 0.85))],
    7: [line((0.25, 0.25), (0.7, 0.25), (0.45, 0.85))],
}
"""Strokes of digits as a person draws them, in a square of side 1."""


def random_network() -> nn.Module:
    """A network whose transformers move, unlike new ones, which begin at the identity."""
    network = create_model(try_page.MODEL)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return network.eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    try:
        return try_page.pretrained().eval()
    except try_page.NO_WEIGHTS:
        torch.manual_seed(0)
        return random_network()


@pytest.fixture(scope="module")
def page(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page of this network, open in a browser with both squares empty."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    try:
        files = try_page.page(network)
    except RuntimeError as error:
        if "npm" not in str(error):
            raise
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("page")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        opened.look(1100, 1000)
        opened.open(folder / "index.html")
        opened.until("shown || document.querySelector('.failed')")
        assert not opened.errors
        beyond = [
            url
            for url in opened.requests
            if not url.startswith((folder.resolve().as_uri(), "blob:"))
        ]
        assert not beyond
        yield opened


@pytest.fixture(autouse=True)
def _empty(request: pytest.FixtureRequest) -> None:
    if "page" in request.fixturenames:
        clear(request.getfixturevalue("page"))


def clear(page: Page) -> None:
    page.value("document.querySelector('#clear').click()")
    settle(page)
    assert not shown(page, "images").any()


def settle(page: Page) -> None:
    """Wait until the network has read what was drawn last."""
    page.value("new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)))")
    page.until("!scheduled && !running")


def shown(page: Page, name: str) -> Tensor:
    """What the page shows: "images", "logits", "theta" or "seen", as the network reads and gives it."""
    shape = {"images": (1, 2, 42, 42), "logits": (1, 19), "theta": (1, 2, 2, 3)}
    values = torch.tensor(page.value(f"Array.from(shown.{name})"))
    return values.reshape(shape.get(name, (1, 2, 2, 42, 42)))


def draw(page: Page, square: int, strokes: list[Points], *, finger: bool = False) -> None:
    page.value("scrollTo(0, 0)")
    pad = f"squares[{square}].pad.getBoundingClientRect()"
    left, top, side = page.value(f"[{pad}.left, {pad}.top, {pad}.width]")
    for points in strokes:
        page.stroke([(left + x * side, top + y * side) for x, y in points], finger=finger)
    settle(page)


def text(page: Page, selector: str) -> str:
    return page.value(f"document.querySelector('{selector}').textContent")


@pytest.mark.slow
def test_what_is_drawn_is_read_as_pytorch_reads_it(page: Page, network: nn.Module) -> None:
    assert text(page, "#sure") == "draw both digits"
    draw(page, 0, DRAWINGS[7])
    first = shown(page, "theta")
    draw(page, 1, DRAWINGS[4], finger=True)
    images, theta = shown(page, "images"), shown(page, "theta")
    assert (theta - first).abs().max() > 1e-3, "the frames did not move"
    assert images.sum((2, 3)).min() > 20
    with torch.no_grad():
        logits, wanted_theta, seen = try_page.Telling(network)(images)
    for name, wanted in (("logits", logits), ("theta", wanted_theta), ("seen", seen)):
        assert (shown(page, name) - wanted).abs().max() < 1e-3, name
    chances = logits.softmax(1)[0]
    assert text(page, "#sum") == f"= {int(chances.argmax())}"
    rows = page.value("[...document.querySelectorAll('#sums span')].map((row) => row.textContent)")
    percents = torch.tensor([float(row.removesuffix(" %")) for row in rows])
    assert (percents - 100 * chances).abs().max() < 0.1
    assert not page.errors


@pytest.mark.slow
def test_frames_move_while_one_draws(page: Page) -> None:
    draw(page, 1, DRAWINGS[0])
    thetas = []
    for end in (5, 9, 13):
        page.value("put(squares[0], null)")
        draw(page, 0, [DRAWINGS[7][0][:end]])
        thetas.append(shown(page, "theta"))
        assert page.value("document.querySelectorAll('.maps canvas').length") == 4
    assert all((a - b).abs().max() > 1e-3 for a, b in pairwise(thetas))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strokes", "middle"),
    [
        ([[(x, y) for x, y in DRAWINGS[1][0]]], (0.5, 0.5)),
        ([[(0.1 + 0.5 * x, 0.5 * y) for x, y in DRAWINGS[0][0]]], (0.35, 0.25)),
        ([[(0.5 + 1.6 * (x - 0.5), 0.5 + 1.6 * (y - 0.5)) for x, y in DRAWINGS[0][0]]], (0.5, 0.5)),
    ],
    ids=["a one", "small, above", "as large as the square"],
)
def test_a_drawing_becomes_a_digit_like_those_of_the_data(
    strokes: list[Points], middle: tuple[float, float], page: Page
) -> None:
    draw(page, 0, strokes)
    image = shown(page, "images")[0, 0]
    assert image.min() >= 0
    assert 0.9 < image.max() <= 1
    rows, columns = (image > 0.5).nonzero().unbind(1)
    longer = max(int(axis.max() - axis.min()) + 1 for axis in (rows, columns))
    assert 0.7 * 20 - 2 <= longer <= 1.2 * 20 + 2
    at = torch.arange(42) + 0.5
    centre = [float((image.sum(axis) * at).sum() / image.sum()) for axis in (0, 1)]
    assert centre == pytest.approx([42 * each for each in middle], abs=1.5)
    assert image[0].max() < 0.5, "ink at the edge"


@pytest.mark.slow
def test_keys_put_in_digits_and_place_them_as_the_data_does(page: Page) -> None:
    page.value("squares[1].pad.focus()")
    page.key("5")
    for key, shift in [("ArrowLeft", False)] * 3 + [("ArrowUp", False), ("ArrowRight", True)]:
        page.key(key, shift=shift)
    page.key("ArrowDown", shift=True)
    settle(page)
    place = page.value("(({x, y, scale, angle}) => ({x, y, scale, angle}))(squares[1].digit)")
    assert place == pytest.approx({
        "x": 18, "y": 20, "scale": 1 / 1.05, "angle": math.radians(5),
    })  # fmt: skip
    digit = torch.tensor(page.value("Array.from(squares[1].digit.pixels)")).reshape(1, 1, 28, 28)
    cos, sin = (f(place["angle"]) / place["scale"] for f in (math.cos, math.sin))
    inverse = torch.tensor([[cos, sin], [-sin, cos]])  # from pixels of the canvas to the digit's
    shift_to = torch.tensor([place["x"] - 21.0, place["y"] - 21.0])
    theta = torch.cat((inverse * 42 / 28, -(inverse @ shift_to)[:, None] / 14), 1)[None]
    wanted = st_sample(digit, theta, (42, 42))[0, 0]
    assert (shown(page, "images")[0, 1] - wanted).abs().max() < 1e-4
    page.key("Delete")
    settle(page)
    assert not shown(page, "images").any()


@pytest.mark.slow
def test_examples_fill_both_squares(page: Page) -> None:
    page.value("document.querySelector('#example').click()")
    settle(page)
    assert shown(page, "images").sum((2, 3)).min() > 10
    assert text(page, "#sum") != "= ?"


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_telephone(dark: bool, page: Page) -> None:
    page.look(400, 800, dark=dark)
    try:
        assert page.value("document.documentElement.scrollWidth") == 400
        paper = page.value("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") != dark
    finally:
        page.look(1100, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("left", DRAWINGS)
def test_trained_weights_add_what_is_drawn(left: int, page: Page) -> None:
    try:
        try_page.pretrained()
    except try_page.NO_WEIGHTS as error:
        pytest.skip(f"no trained weights: {error}")
    draw(page, 0, DRAWINGS[left])
    draw(page, 1, DRAWINGS[7])
    assert text(page, "#sum") == f"= {left + 7}"


@pytest.mark.parametrize("name", ["mnist_addition_fcn", "mnist_addition_2st_fcn_tps"])
def test_other_networks_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the page needs"):
        try_page._model(create_model(name), torch.zeros(1, 2, 42, 42))


def test_the_command_without_a_checkpoint_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page"
    with pytest.raises(SystemExit):
        try_page.main(["--checkpoint", str(tmp_path / "none.ckpt"), "--out", str(out)])
    assert "none.ckpt: no such checkpoint" in capsys.readouterr().err
    assert not out.exists()
