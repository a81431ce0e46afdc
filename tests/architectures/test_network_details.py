"""The paper's networks one by one: what each has that the others have not."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from architectures import SerialSTN, create_model
from architectures.networks.colocalisation import Encoder, colocalisation_loss
from architectures.networks.inception import Inception, InceptionModule
from stn_triton import identity_theta, st_sample
from support.networks import CUB, SVHN, meta, tiny_backbone

# Distorted MNIST


@pytest.mark.parametrize("kind", ["fcn", "cnn"])
def test_pooling_between_transformer_and_classifier(kind: str) -> None:
    for size, pool in ((28, 1), (42, 2), (60, 2)):
        model = create_model(f"mnist_st_{kind}_affine", image_size=size)
        x = torch.rand(2, 1, size, size)
        seen, _ = model.resample(x)
        torch.testing.assert_close(seen, x, rtol=0, atol=1e-5)
        wanted = model.head[1:](F.avg_pool2d(seen, pool))
        torch.testing.assert_close(model(x), wanted)


def test_padding_is_an_option() -> None:
    model = create_model("mnist_st_fcn_affine", padding_mode="border")
    assert model.transformers[0].padding_mode == "border"


# House numbers


def copy_of_plain(name: str) -> tuple[nn.Module, nn.Module]:
    plain, model = create_model("svhn_cnn", image_size=32, width=0.05), create_model(name, **SVHN)
    if isinstance(model, SerialSTN):
        model.head.load_state_dict(plain.state_dict())
    else:
        model.stages.load_state_dict(plain[:8].state_dict())
        model.head.load_state_dict(plain[8].state_dict())
    return plain.eval(), model.eval()


@pytest.mark.parametrize("name", ["svhn_st_cnn_single", "svhn_st_cnn_multi"])
def test_house_numbers_start_as_the_plain_network(name: str) -> None:
    plain, model = copy_of_plain(name)
    x = torch.rand(2, 3, 32, 32)
    logits, thetas = model(x, return_theta=True)
    torch.testing.assert_close(logits, plain(x), rtol=1e-4, atol=1e-4)
    for frame in model.composed_theta(thetas):
        assert torch.equal(frame, identity_theta("affine", (2,)))


def test_transformers_stand_before_the_first_four_convolutions() -> None:
    model = meta("svhn_st_cnn_multi")
    assert model.before == (0, 1, 2, 3) and len(model.stages) == 8
    seen: list[tuple[int, ...]] = []
    for transformer in model.transformers:
        transformer.register_forward_hook(
            lambda module, given, result: seen.append((*given[0].shape[1:], *result[0].shape[1:]))
        )
    model(torch.rand(1, 3, 64, 64, device="meta"))
    maps = [(3, 64, 64), (48, 32, 32), (64, 32, 32), (128, 16, 16)]
    assert seen == [(*shape, *shape) for shape in maps]


def test_dropout_of_house_numbers() -> None:
    for name in ("svhn_cnn", "svhn_st_cnn_single", "svhn_st_cnn_multi"):
        model = meta(name)
        parts = list(model) if name == "svhn_cnn" else list(getattr(model, "stages", model.head))
        dropped = [
            [m.p for m in stage.modules() if isinstance(m, nn.Dropout)] for stage in parts[:8]
        ]
        assert dropped == [[]] + [[0.5]] * 7
        everywhere = [m for m in model.modules() if isinstance(m, nn.Dropout)]
        assert len(everywhere) == 7 + 3
        for transformer in getattr(model, "transformers", []):
            assert not any(isinstance(m, nn.Dropout) for m in transformer.modules())


def test_signals_reach_the_end_of_the_house_number_network() -> None:
    torch.manual_seed(0)
    for dropout in (0.0, 0.5):
        model = create_model("svhn_cnn", width=0.25, dropout=dropout).train()
        assert 0.1 < model(torch.randn(8, 3, 64, 64)).std() < 10


# Birds


def test_first_crops_tile_the_image() -> None:
    for name, columns, rows in (("cub_2st_cnn", 2, 1), ("cub_4st_cnn", 2, 2)):
        model = create_model(name, **CUB)
        x = torch.rand(2, 3, 32, 32)
        crops = model.sample(x, model.localise(x))
        assert crops.shape == (2, columns * rows, 3, 16, 16)
        top = 0 if rows == 2 else 8
        for k in range(columns * rows):
            y, left = top + 16 * (k // columns), 16 * (k % columns)
            wanted = x[..., y : y + 16, left : left + 16]
            torch.testing.assert_close(crops[:, k], wanted, rtol=0, atol=4e-6)


def test_streams_are_separate_and_localisation_is_shared() -> None:
    model = meta("cub_4st_cnn")
    assert len(model.transformers) == 1 and len(model.streams) == 4
    own = [id(p) for stream in model.streams for p in stream.parameters()]
    assert len(set(own)) == len(own) == 4 * len(list(model.streams[0].parameters()))
    kinds = [type(m).__name__ for m in model.head]
    assert kinds == ["Dropout", "Linear"] and model.head[0].p == 0.7


def test_localisation_sees_the_image_at_the_size_of_a_crop() -> None:
    sizes: list[tuple[int, ...]] = []

    def backbone() -> nn.Module:
        module = tiny_backbone()
        module.register_forward_hook(lambda m, given, result: sizes.append(tuple(given[0].shape)))
        return module

    for size in (16, 32):
        sizes.clear()
        model = create_model("cub_2st_cnn", **{**CUB, "backbone": backbone, "image_size": size})
        model(torch.rand(2, 3, size, size))
        assert sizes == [(2, 3, 16, 16)] * 3


def test_inception_gives_the_maps_of_the_published_table() -> None:
    with torch.device("meta"):
        network, x = Inception(), torch.rand(1, 3, 224, 224)
    sides = {}
    for name, module in network.named_children():
        x = module(x)
        if isinstance(module, InceptionModule):
            assert x.shape[1] == module.filters
            sides[name] = tuple(x.shape[1:3])
    assert sides == {
        "3a": (256, 28), "3b": (320, 28), "3c": (576, 14), "4a": (576, 14), "4b": (576, 14),
        "4c": (608, 14), "4d": (608, 14), "4e": (1056, 7), "5a": (1024, 7), "5b": (1024, 7),
    }  # fmt: skip
    assert network.num_features == 1024


def test_inception_runs() -> None:
    model = create_model("cub_2st_cnn", crop_size=32, image_size=64).eval()
    logits, theta = model(torch.rand(1, 3, 64, 64), return_theta=True)
    assert logits.shape == (1, 200) and theta.shape == (1, 2, 3)
    assert logits.isfinite().all()


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    trained, file = tiny_backbone(), tmp_path / "backbone.pt"
    torch.save(trained.state_dict(), file)
    plain = create_model("cub_cnn", **CUB, weights=file)
    model = create_model("cub_4st_cnn", **CUB, weights=str(file))
    started = [plain[0], model.transformers[0].localisation[1], *(s[0] for s in model.streams)]
    assert len(started) == 6
    for network in started:
        for mine, theirs in zip(network.parameters(), trained.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    missing, text, number, other = (tmp_path / name for name in ("no", "text", "number", "other"))
    text.write_text("weights")
    torch.save(3, number)
    torch.save({"0.weight": torch.zeros(6, 3, 3, 3), "fc.bias": torch.zeros(2)}, other)
    for file, error, parts in (
        (missing, FileNotFoundError, ["no such file"]),
        (tmp_path, FileNotFoundError, ["no such file"]),
        (text, ValueError, ["cannot be read"]),
        (number, ValueError, ["must hold a state dict", "int"]),
        (other, ValueError, ["does not fit", "fc.bias", "0.bias"]),
    ):
        with pytest.raises(error) as raised:
            create_model("cub_cnn", **CUB, weights=file)
        assert all(part in str(raised.value) for part in [str(file), *parts]), raised.value


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"backbone": nn.ReLU()}, TypeError, "function that makes a module.*got ReLU"),
        ({"backbone": 3}, TypeError, "a name or a function.*got int"),
        ({"backbone": lambda: 3}, TypeError, "must make an nn.Module, got int"),
        ({"backbone_features": None}, ValueError, "Sequential has no num_features"),
        ({"backbone": "resnet18"}, ImportError, "timm, which is not installed: pip install timm"),
    ],
)
def test_wrong_backbones(
    changes: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(error, match=message):
        create_model("cub_2st_cnn", **{**CUB, **changes})


def test_backbone_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def make(name: str, **options: Any) -> nn.Module:
        calls.append((name, options))
        network = tiny_backbone()
        network.num_features = 6
        return network

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=make))
    options = {**CUB, "backbone": "resnet18", "backbone_features": None}
    model = create_model("cub_2st_cnn", **options)
    wanted = {"pretrained": False, "in_chans": 3, "num_classes": 0, "global_pool": ""}
    assert calls == [("resnet18", wanted)] * 3
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 200)


# Co-localisation


def encoder() -> Encoder:
    return Encoder(create_model("mnist_cnn", image_size=28, filters=4))


def test_encoder_joins_what_all_layers_give() -> None:
    network = create_model("mnist_cnn", image_size=28, filters=4)
    encode, x = Encoder(network), torch.rand(3, 1, 28, 28, requires_grad=True)
    codes = encode(x)
    first = F.max_pool2d(F.conv2d(x, *network[0][0].parameters()).relu(), 2)
    second = F.max_pool2d(F.conv2d(first, *network[1][0].parameters()).relu(), 2)
    torch.testing.assert_close(codes[:, : 4 * 100], first.flatten(1))
    torch.testing.assert_close(codes[:, 4 * 100 : 4 * 104], second.flatten(1))
    torch.testing.assert_close(codes[:, 4 * 104 :], network(x))
    codes.sum().backward()
    assert x.grad is not None and bool(x.grad.any())


def test_encoder_can_weigh_its_layers_alike() -> None:
    network = create_model("mnist_cnn", image_size=28, filters=4)
    x = torch.rand(3, 1, 28, 28)
    plain, balanced = Encoder(network)(x), Encoder(network, balance=0.25)(x)
    sizes = [400, 16, 10]
    wanted = 0.0
    for part in plain.split(sizes, 1):
        wanted += 0.25 * (part[0] - part[1]).square().mean().item()
    assert (balanced[0] - balanced[1]).square().sum().item() == pytest.approx(wanted, rel=1e-5)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="balance must be above 0, got"):
            Encoder(network, balance=wrong)


def test_encoder_is_frozen_and_its_model_is_not() -> None:
    network = create_model("mnist_cnn", image_size=28, filters=4)
    encode = Encoder(network).train()
    assert encode.training and not any(m.training for m in encode.network.modules())
    assert not any(p.requires_grad for p in encode.parameters())
    assert network.training and all(p.requires_grad for p in network.parameters())
    with pytest.raises(TypeError, match=r"nn\.Sequential, got Linear"):
        Encoder(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("margin", "alike"), [(1.0, 1.0), (0.0, 1.0), (50.0, 1.0), (50.0, 0.0), (50.0, 0.3)]
)
def test_loss_is_the_sum_over_pairs(margin: float, alike: float) -> None:
    encode = encoder()
    crops, others = torch.rand(2, 5, 1, 28, 28).unbind()
    wanted = torch.zeros(())
    for n in range(5):
        for m in range(5):
            a, b, r = (encode(image[None]) for image in (crops[n], crops[m], others[n]))
            if n != m:
                between, to_random = (a - b).square().sum(), (a - r).square().sum()
                wanted += max(0.0, alike * between - to_random + margin)
    loss = colocalisation_loss(encode, crops, others, margin, alike)
    assert loss.shape == () and (margin == 0 or loss > 0)
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-5)


def test_loss_of_one_image_is_zero_and_shapes_must_agree() -> None:
    crops = torch.rand(1, 1, 28, 28, requires_grad=True)
    loss = colocalisation_loss(encoder(), crops, torch.rand(1, 1, 28, 28))
    loss.backward()
    assert loss.item() == 0 and crops.grad is not None and not crops.grad.any()
    with pytest.raises(ValueError, match=r"\(1, 1, 28, 28\), got \(2, 1, 28, 28\)"):
        colocalisation_loss(encoder(), crops, torch.rand(2, 1, 28, 28))


def test_loss_trains_the_localiser() -> None:
    model, encode, x = create_model("colocalisation"), encoder(), torch.rand(4, 1, 84, 84)
    crops, theta = model(x)
    assert torch.equal(theta, identity_theta("attention", (4,)))
    random_crops = st_sample(
        x, torch.tensor([[1 / 3, 0.2, 0.1]]).expand(4, 3), (28, 28), transform="attention"
    )
    colocalisation_loss(encode, crops, random_crops, margin=100.0).backward()
    assert bool(model.transformer.regression.weight.grad.any())


def test_the_scale_can_be_held() -> None:
    model, x = create_model("colocalisation"), torch.rand(4, 1, 84, 84)
    gradients = []
    for hold_scale in (False, True):
        model.zero_grad()
        crops, _ = model(x, hold_scale=hold_scale)
        (crops * torch.rand(28, 28)).sum().backward()
        gradients.append(model.transformer.regression.weight.grad.abs().sum(1))
    assert bool((gradients[0] > 0).all())
    assert gradients[1][0] == 0 and bool((gradients[1][1:] > 0).all())


def test_first_crop_is_an_option() -> None:
    model = create_model("colocalisation", initial_scale=0.5, crop_size=14, antialias=True)
    crop, theta = model(torch.rand(2, 1, 84, 84))
    assert crop.shape == (2, 1, 14, 14)
    assert torch.equal(theta, torch.tensor([[0.5, 0.0, 0.0]] * 2))


# Volumes

VOLUMES = {"image_size": 28, "pool": 1, "filters": 8, "localisation_filters": 6}


@pytest.mark.parametrize("projection", ["sum", "mean"])
def test_volumes_are_projected(projection: str) -> None:
    options = {**VOLUMES, "projection": projection}
    model = create_model("mnist3d_st_cnn", **options)
    x = torch.rand(2, 1, 28, 28, 28)
    wanted = x.sum(2) if projection == "sum" else x.mean(2)
    torch.testing.assert_close(model.head[:2](x), wanted)
    torch.testing.assert_close(model(x), model.head[2:](wanted), rtol=1e-4, atol=1e-4)
