"""Symmetric and skew products, and batches taken one by one, against the plain product."""

import pytest
import torch
from torch.testing import assert_close

from modula.kernels.op import Op
from modula.kernels.spectral import products
from modula.kernels.spectral.polar import Gram, Standard, default_polynomials, polar
from modula.kernels.spectral.products import (
    STRIP,
    add_product_,
    gram,
    left_multiply,
    one_by_one,
    skew,
    skew_product,
    symmetric,
    symmetric_product,
)

SIZES = [3, 2 * STRIP + 7]  # whole, and in strips


@pytest.mark.parametrize("n", SIZES)
def test_symmetric_product(n: int) -> None:
    x, y = torch.randn(n, 5, dtype=torch.float64), torch.randn(n, n, dtype=torch.float64)
    add = y + y.mT
    assert_close(symmetric_product(x, x.mT), x @ x.mT)
    expected = 2 * x @ x.mT + 3 * add
    assert_close(symmetric_product(x, x.mT, add, beta=3.0, alpha=2.0), expected)
    expected = expected + 5 * torch.eye(n, dtype=x.dtype)
    assert_close(symmetric_product(x, x.mT, add, beta=3.0, alpha=2.0, gamma=5.0), expected)
    assert torch.equal(gram(x), symmetric_product(x, x.mT))


@pytest.mark.parametrize("n", SIZES)
def test_skew_product(n: int) -> None:
    x, y = torch.randn(n, 5, dtype=torch.float64), torch.randn(5, 5, dtype=torch.float64)
    product = skew_product(x @ (y - y.mT), x.mT)
    assert_close(product, x @ (y - y.mT) @ x.mT)
    assert torch.equal(product, -product.mT)


@pytest.mark.parametrize("shape", [(6, 4), (1, 6, 4), (2, 3, 6, 4), (2, 2 * STRIP + 1, 400)])
def test_one_by_one_is_the_batch(shape: tuple[int, ...]) -> None:
    x, y = torch.randn(shape), torch.randn(shape)
    assert torch.equal(one_by_one(torch.add, x, y), x + y)


def test_add_product_writes_to_its_first_argument() -> None:
    for batch in ((), (3,)):
        out, x, y = torch.randn(*batch, 4, 5), torch.randn(*batch, 4, 2), torch.randn(*batch, 2, 5)
        expected = out - 2 * x @ y
        assert add_product_(out, x, y, alpha=-2.0) is out
        assert_close(out, expected)


def test_symmetric_and_skew_parts_add_up() -> None:
    x = torch.randn(2, 5, 5, dtype=torch.float64)
    assert torch.equal(symmetric(x), symmetric(x).mT)
    assert torch.equal(skew(x), -skew(x).mT)
    assert_close(symmetric(x) + skew(x), x)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_left_multiply_keeps_the_layout(batch: tuple[int, ...]) -> None:
    z, x = torch.randn(*batch, 4, 4), torch.randn(*batch, 4, 6)
    z = symmetric(z)
    for each in (x, x.mT.contiguous().mT):
        out = left_multiply(z, each, alpha=2.0, beta=3.0)
        assert_close(out, 2 * z @ each + 3 * each)
        assert out.stride() == each.stride()
        assert_close(left_multiply(z, each), z @ each)


@pytest.mark.parametrize(
    ("op", "reads"),
    [
        (gram, [(8, 20)]),
        (symmetric_product, [(8, 20), (20, 8)]),
        (left_multiply, [(8, 8), (8, 20)]),
    ],
    ids=lambda x: x.name if isinstance(x, Op) else "",
)
def test_counted_operations_are_the_ones_done(op: Op, reads: list[tuple[int, int]]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        op(*(torch.randn(shape) for shape in reads))
    assert op.cost((8, 20)).flops == counter.get_total_flops()
    assert op.cost((3, 8, 20)).bytes == 3 * op.cost((8, 20)).bytes


@pytest.mark.parametrize("form", [Standard(), Gram((2,))], ids=str)
def test_polar_is_made_of_the_twins_of_these_ops(
    form: Standard | Gram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a fused twin takes over: every product of a polar factor."""
    x, called = torch.randn(6, 20, dtype=torch.float64), []
    expected = polar(x, form=form)

    def counted(op: Op) -> Op:
        def plain(*reads: torch.Tensor, **options: float) -> torch.Tensor:
            called.append(op.name)
            return op.plain(*reads, **options)

        return Op(op.name, plain, op.cost)

    for op in (gram, symmetric_product, left_multiply):
        monkeypatch.setattr(products, op.name, counted(op))
    assert torch.equal(polar(x, form=form), expected)
    count = form.products(default_polynomials(6, torch.float64))
    assert called.count("gram") == count.gram and called.count("left_multiply") == count.wide
    assert called.count("symmetric_product") == count.small
