"""Rows of every kind of layer: they must give back the layer's output and its gradient."""

import pytest
import torch
from torch import Tensor, nn

import modula
from modula.statistics import Collector

close = torch.testing.assert_close


class Conv1D(nn.Module):
    """The layer of that name in transformers: y = x W + b, W: (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


LAYERS = {
    "linear": (nn.Linear(4, 3), (2, 5, 4)),
    "linear-one-vector": (nn.Linear(4, 3), (4,)),
    "linear-no-bias-4d": (nn.Linear(4, 3, bias=False), (2, 1, 5, 4)),
    "modula-linear": (modula.Linear(3, 4), (2, 5, 4)),
    "transformers": (Conv1D(), (2, 5, 4)),
    "conv1d": (nn.Conv1d(2, 3, 3, stride=2, padding=1, dilation=2), (2, 2, 9)),
    "conv1d-one-signal": (nn.Conv1d(2, 3, 3), (2, 9)),
    "conv2d": (nn.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=(0, 2)), (2, 2, 6, 5)),
    "conv2d-same": (nn.Conv2d(2, 3, (2, 4), padding="same", dilation=(1, 2)), (2, 2, 5, 5)),
    "conv2d-valid-circular": (
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False),
        (1, 2, 5, 4),
    ),
    "conv2d-valid": (nn.Conv2d(2, 3, 3, padding="valid"), (2, 2, 5, 4)),
    "conv3d": (nn.Conv3d(2, 3, (1, 2, 3), padding=1), (2, 2, 3, 3, 4)),
    "modula-conv2d": (modula.Conv2d(3, 2, 3, stride=2, padding=1), (2, 2, 6, 5)),
    "modula-conv2d-one-image": (modula.Conv2d(3, 2, 3), (2, 6, 5)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # it may copy the input
@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS.keys())
def test_rows_give_the_output_and_the_gradient(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """y = W x on each row, and dL/dW = sum of e x^T over the rows / terms."""
    torch.manual_seed(0)
    layer = layer.double()
    layer.zero_grad()
    x = torch.randn(*shape, dtype=torch.float64)
    statistics = {"layer_inputs", "output_gradients", "input_moment", "output_moment"}
    collector = Collector(layer, {"weight": statistics})
    y = layer(x)
    terms = 7
    y.pow(2).sum().backward()
    found = collector.take(terms)["weight"]
    collector.remove()
    rows, e = found["layer_inputs"], found["output_gradients"]

    matrix = layer.weight.mT if isinstance(layer, Conv1D) else layer.weight.flatten(1)
    gradient = layer.weight.grad.mT if isinstance(layer, Conv1D) else layer.weight.grad.flatten(1)
    image = layer.weight.ndim > 2
    bias = getattr(layer, "bias", None)
    outputs = y.reshape(-1, *y.shape[-layer.weight.ndim + 1 :]).flatten(2).mT if image else y
    expected = rows @ matrix.mT + (0.0 if bias is None else bias)
    close(expected, outputs.reshape(expected.shape))
    close(e.mT @ rows / terms, gradient)
    close(found["input_moment"], rows.mT @ rows / len(rows))
    close(found["output_moment"], e.mT @ e / terms)


def test_a_convolution_has_as_many_terms_as_examples() -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(2, 3, 3).double(), torch.randn(4, 2, 5, 6).double()
    names = {"output_moment", "reduced_input_moment", "reduced_output_moment"}
    collector = Collector(layer, {"weight": names})
    y = layer(x)
    y.mean((2, 3)).pow(2).sum(1).mean().backward()  # one loss an image
    pixels = y.shape[2] * y.shape[3]
    e = (2 * y.mean((2, 3), keepdim=True) / pixels).expand_as(y).detach()
    found = collector.take()["weight"]
    close(found["output_moment"], torch.einsum("nahw,nbhw->ab", e, e) / 4)
    summed = e.sum((2, 3))
    close(found["reduced_output_moment"], summed.mT @ summed / 4)
    patches = nn.functional.unfold(x, 3).mean(2)
    close(found["reduced_input_moment"], patches.mT @ patches / 4)
