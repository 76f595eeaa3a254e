import pytest
import torch
from torch import nn

from charter.models.products import Products, product


@pytest.fixture
def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 48), nn.Linear(48, 100, bias=False)).eval()


@torch.inference_mode()
def multiplied(products, layers, rows):
    with products.applied():
        return layers(rows)


def test_products_are_those_of_the_layers(layers):
    rows = torch.randn(20, 64)
    with torch.inference_mode():
        expected = layers(rows)
    assert torch.allclose(multiplied(Products(layers), layers, rows), expected, atol=1e-5)


def test_a_row_has_the_same_bits_among_any_others(layers):
    products, rows = Products(layers), torch.randn(300, 64)
    many = multiplied(products, layers, rows)
    if not products.used:
        pytest.skip("oneDNN is not used on this machine")
    for count in (1, 2, 3, 7, 16, 33, 64, 129):
        assert torch.equal(multiplied(products, layers, rows[:count]), many[:count])


def test_no_row_gives_no_row(layers):
    assert multiplied(Products(layers), layers, torch.randn(1, 0, 64)).shape == (1, 0, 100)


def test_layers_are_as_they_were_afterwards(layers):
    with Products(layers).applied():
        pass
    assert all("forward" not in vars(layer) for layer in layers)


def test_changed_weights_count_once_it_is_said(layers):
    products, rows = Products(layers), torch.randn(20, 64)
    multiplied(products, layers, rows)
    with torch.no_grad():
        layers[1].weight.zero_()
    products.weights_changed()
    assert not multiplied(products, layers, rows).any()


def test_a_layer_that_someone_else_has_replaced_stays_so(layers):
    layers[1].forward = lambda rows: rows + 1
    rows = torch.randn(20, 64)
    first = multiplied(Products(layers), layers[:1], rows)
    assert torch.equal(multiplied(Products(layers), layers, rows), first + 1)


def test_one_row_may_have_no_axes_before_it(layers):
    with torch.inference_mode():
        one = product(torch.randn(1, 64), weight=layers[0].weight, bias=layers[0].bias)
    assert one.shape == (1, 48)
