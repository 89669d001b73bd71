"""Weights given to create_model, fitted to what was asked for."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from transnext_models import create_model
from transnext_models.checkpoints.pretrained import spread_channels

SIZE = 32


@pytest.fixture(scope="module")
def trained():
    """A model whose weights stand for published ones."""
    torch.manual_seed(0)
    return create_model("transnext_pico", num_classes=10).eval()


@pytest.fixture(scope="module")
def weights(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "pico.safetensors"
    save_file(trained.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def x():
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_weights_of_a_file(trained, weights, x):
    model = create_model("transnext_pico", weights=weights).eval()
    torch.testing.assert_close(model(x), trained(x))


def test_other_img_size_loads_the_same_weights(trained, weights, x):
    model = create_model("transnext_pico", weights=weights, img_size=96).eval()
    torch.testing.assert_close(model(x), trained(x))


def test_the_classes_are_those_of_the_file(tmp_path, x):
    seven = create_model("transnext_pico", num_classes=7).eval()
    path = tmp_path / "seven.safetensors"
    save_file(seven.state_dict(), path)
    model = create_model("transnext_pico", weights=path).eval()
    assert model.num_classes == 7
    torch.testing.assert_close(model(x), seven(x))


def test_other_classes_get_a_new_classifier(trained, weights, x):
    model = create_model("transnext_pico", weights=weights, num_classes=4).eval()
    assert model(x).shape == (2, 4)
    torch.testing.assert_close(model.forward_features(x), trained.forward_features(x))


def test_no_classes_leave_the_classifier_out(trained, weights, x):
    model = create_model("transnext_pico", weights=weights, num_classes=0).eval()
    expected = trained.forward_head(trained.forward_features(x), pre_logits=True)
    torch.testing.assert_close(model(x), expected)


def test_a_backbone_takes_what_it_has(trained, weights, x):
    maps = trained.forward_intermediates(x, intermediates_only=True)
    for indices in (None, (0, 2), (1,)):
        model = create_model(
            "transnext_pico",
            weights=weights,
            features_only=True,
            out_indices=indices,
            position_bias="extrapolate",
        ).eval()
        wanted = maps if indices is None else [maps[i] for i in indices]
        for got, expected in zip(model(x), wanted, strict=True):
            torch.testing.assert_close(got, expected)


def test_a_classifier_needs_one_in_the_file_unless_asked_for(tmp_path, trained):
    path = tmp_path / "backbone.safetensors"
    state = {name: v for name, v in trained.state_dict().items() if not name.startswith("head.")}
    save_file(state, path)
    with pytest.raises(ValueError, match="no classification head"):
        create_model("transnext_pico", weights=path)
    model = create_model("transnext_pico", weights=path, num_classes=10)
    torch.testing.assert_close(model.norm4.weight, trained.norm4.weight)


def test_grey_images_give_what_they_gave_in_colour(trained, weights, x):
    grey = x[:, :1]
    model = create_model("transnext_pico", weights=weights, in_chans=1).eval()
    torch.testing.assert_close(model(grey), trained(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_spread_filters_answer_equal_channels_as_before(channels):
    torch.manual_seed(0)
    filters = torch.randn(6, 3, 7, 7).mean(1, keepdim=True).expand(-1, 3, -1, -1)
    image = torch.randn(1, 1, 16, 16)
    expected = torch.nn.functional.conv2d(image.expand(-1, 3, -1, -1), filters)
    spread = spread_channels(filters, channels)
    assert spread.shape == (6, channels, 7, 7)
    actual = torch.nn.functional.conv2d(image.expand(-1, channels, -1, -1), spread)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_weights_of_another_architecture_do_not_fit(weights):
    with pytest.raises(ValueError, match=r"pico\.safetensors.*transnext_pico.*transnext_micro"):
        create_model("transnext_micro", weights=weights)
    with pytest.raises(ValueError, match=r"pico\.safetensors"):
        create_model("transnext_pico", weights=weights, attention="pixel_focused")


def test_published_weights_and_a_file_exclude_each_other(weights):
    with pytest.raises(ValueError, match="weights"):
        create_model("transnext_pico", pretrained=True, weights=weights)


def test_published_weights_come_through_the_hub(monkeypatch, trained, weights, x):
    from transnext_models.checkpoints import hub

    asked = []

    def resolve(name):
        asked.append(name)
        return weights

    monkeypatch.setattr(hub, "resolve_weights", resolve)
    model = create_model("transnext_pico", pretrained=True).eval()
    assert asked == ["transnext_pico.mnist5k"]
    torch.testing.assert_close(model(x), trained(x))
