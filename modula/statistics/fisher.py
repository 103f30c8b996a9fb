"""The backward pass that makes the output moment a Fisher, or the exact Gauss-Newton.

    the training loss itself          empirical Fisher
    a loss on sampled labels          the Fisher, estimated from one draw
    ..._gauss_newton_backward         the Gauss-Newton, for any number of classes

Source: Kunstner et al. 2019, arXiv:1905.12558; Dangel et al. 2020, arXiv:1912.10985.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@torch.no_grad()
def sampled_labels(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Labels drawn from softmax(logits), in the shape that F.cross_entropy takes.

    logits: (N, classes, ...) or (classes,), as there.
    """
    probabilities = logits.detach().float().softmax(_classes(logits)).movedim(_classes(logits), -1)
    rows = probabilities.reshape(-1, probabilities.shape[-1])
    return rows.multinomial(1, generator=generator).reshape(probabilities.shape[:-1])


def cross_entropy_gauss_newton_backward(logits: Tensor, share: float = 1.0) -> int:
    """Backward passes, one a class, whose output moments are those of the Gauss-Newton matrix.

        F.cross_entropy(logits, any labels) has the Hessian  diag(p) - p p^T = sum_c s_c s_c^T,
        s_c = sqrt(p_c) (one_hot(c) - p),    p = softmax(logits)

    Each class counts as an equally likely label of gradient sqrt(classes) s_c, so that moments
    are means as ever.  Exact where terms of the loss share no row of a layer; where they do, as
    tokens do under attention, sample labels.  The graph stays; gradients arrive in p.grad, see
    `gradients_kept`.

    logits  (N, classes, ...) or (classes,)
    share   of these examples in the mean: 1 / K for each of K microbatches
    Returns how many terms it adds to the mean, for `Collector.take`.
    """
    dim = _classes(logits)
    p = logits.detach().softmax(dim)

    def column(c: int) -> Tensor:
        root = p.select(dim, c).sqrt().unsqueeze(dim)
        s = -root * p
        s.select(dim, c).add_(root.squeeze(dim))
        return s

    return _backward(logits, dim, (column(c) for c in range(logits.shape[dim])), share)


def mse_gauss_newton_backward(outputs: Tensor, share: float = 1.0) -> int:
    """The same for F.mse_loss, which averages the components too.

        s_c = sqrt(2 / components) one_hot(c)

    outputs  (..., components)
    """
    components = outputs.shape[-1]

    def column(c: int) -> Tensor:
        s = torch.zeros_like(outputs)
        s[..., c] = (2 / components) ** 0.5
        return s

    return _backward(outputs, -1, (column(c) for c in range(components)), share)


@contextmanager
def gradients_kept(model: nn.Module) -> Iterator[None]:
    """Extra backward passes inside leave every p.grad as it was, whatever happens."""
    before = [(weight, weight.grad, _copy_of_view(weight.grad)) for weight in model.parameters()]
    try:
        # Set aside rather than zeroed: backward passes would add to the kept gradients in place.
        for weight, _, _ in before:
            weight.grad = None
        yield
    finally:
        for weight, gradient, copy in before:
            if gradient is not None and copy is not None:
                gradient.detach().copy_(copy)
            weight.grad = gradient


def _copy_of_view(gradient: Tensor | None) -> Tensor | None:
    """The values of a gradient that is part of a bucket, where the next backward pass writes.

    DistributedDataParallel(gradient_as_bucket_view=True) makes such gradients.
    """
    return gradient.clone() if gradient is not None and gradient._is_view() else None


def _backward(outputs: Tensor, dim: int, columns: Iterable[Tensor], share: float) -> int:
    """Label c of example n, one of N * C terms, sends back sqrt(C) s_c / (N C)."""
    classes = outputs.shape[dim]
    examples = outputs.numel() // classes
    for column in columns:
        outputs.backward(column * (share / (examples * classes**0.5)), retain_graph=True)
    return outputs.numel()


def _classes(logits: Tensor) -> int:
    return 1 if logits.ndim > 1 else 0
