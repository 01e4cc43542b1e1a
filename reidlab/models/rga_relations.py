"""The relations of RGA in two forms, and a training step of the quick one with its derivative by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from reidlab.models.rga import RelationAttention

aten = torch.ops.aten


def explicit_relations(projected: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Convolve the relations of all nodes, both stackings, as the paper does.

    Args:
        projected: θ, φ and g one behind the other, (B, 3F, H, W) with H · W = M nodes.
        weight: (K, 2M); the first M columns read how a node relates to all, the others how all relate to it.

    Returns:
        The convolved relations (B, K, H, W) and the mean of g (B, 1, H, W).

    Example:
        >>> relations, g = explicit_relations(torch.rand(2, 12, 4, 2), torch.rand(3, 16))
        >>> relations.shape, g.shape
        (torch.Size([2, 3, 4, 2]), torch.Size([2, 1, 4, 2]))

    Source: Zhang et al., CVPR 2020, section 3.1.
    Taught in: notebooks/04_rga_attention.ipynb
    """
    theta, phi, g = projected.flatten(2).chunk(3, dim=1)  # (B, F, M) each
    relations = theta.mT @ phi  # (B, M, M)
    # column i of the stack: first row i of the relations (i to all), then their column i (all to i)
    both = torch.cat([relations.mT, relations], dim=1)  # (B, 2M, M)
    shape = projected.shape[2:]
    return (weight.to(both.dtype) @ both).unflatten(2, shape), g.mean(1, keepdim=True).unflatten(2, shape)


def factored_relations(projected: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same as `explicit_relations`, without the M × M relations.

    Between the relations G and the convolution W = [W_in, W_out] stands no non-linearity. So
    W [Gᵀ; G] = (W_in φᵀ) θ + (W_out θᵀ) φ, and what is in brackets is small: K × F.

    Args, returns: as `explicit_relations`.

    Example:
        >>> projected, weight = torch.rand(2, 12, 4, 2), torch.rand(3, 16)
        >>> torch.allclose(factored_relations(projected, weight)[0], explicit_relations(projected, weight)[0])
        True

    Taught in: notebooks/04_rga_attention.ipynb
    """
    relations = _related(_factors(projected, weight), projected)
    g = projected.flatten(2).chunk(3, dim=1)[2].mean(1, keepdim=True)  # (B, 1, M)
    return relations, g.unflatten(2, projected.shape[2:])


def _factors(projected: Tensor, weight: Tensor) -> Tensor:
    """[W_in φᵀ, W_out θᵀ]: (B, K, 2F)."""
    theta, phi, _ = projected.flatten(2).chunk(3, dim=1)
    w_in, w_out = weight.to(projected.dtype).expand(len(projected), -1, -1).chunk(2, dim=2)
    return torch.cat([w_in @ phi.mT, w_out @ theta.mT], dim=2)


def _related(factors: Tensor, projected: Tensor) -> Tensor:
    """Multiply (B, K, 2F) by [θ; φ] to maps (B, K, H, W)."""
    theta_phi = projected.flatten(2)[:, : factors.shape[2]]  # (B, 2F, M)
    return _product(factors, theta_phi, projected.is_contiguous()).unflatten(2, projected.shape[2:])


def _product(left: Tensor, right: Tensor, rows: bool) -> Tensor:
    """Multiply (B, I, J) by (B, J, M) to (B, I, M), stored by rows or, for channels-last maps, by columns."""
    return left @ right if rows else (right.mT @ left.mT).mT


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve with a 1×1 kernel in the memory order of x.

    In channels-last order the strides of such a kernel would make torch copy an x that is not in that order.

    Args:
        x: (B, C, H, W).
        weight: (K, C, 1, 1).

    Example:
        >>> pointwise(torch.rand(2, 8, 4, 2), torch.rand(3, 8, 1, 1)).shape
        torch.Size([2, 3, 4, 2])
    """
    return nn.functional.conv2d(x, weight.to(x.dtype).flatten(1)[:, :, None, None])


def can_weigh(half: RelationAttention) -> bool:
    """Say whether `weigh` does for `half` what its layers would do one by one.

    It needs plain batch norms in training mode; others, such as those that look at the batches of several processes,
    are left to autograd.
    """
    norms = (half.project_norm, half.relate_norm, half.squeeze_norm, half.score_norm)
    plain = all(type(norm) is nn.BatchNorm2d and norm.training and norm.momentum is not None for norm in norms)
    return half.method == "factored" and plain and torch.is_grad_enabled()


def weigh(half: RelationAttention, x: Tensor) -> Tensor:
    """Return x times the gates of `half`, keeping as little as possible for the backward pass.

    Args:
        half: in training mode, with the factored method; `can_weigh` tells.
        x: (B, F, H, W).
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    for norm in (half.project_norm, half.relate_norm, half.squeeze_norm, half.score_norm):
        norm.num_batches_tracked.add_(1)
    with torch.autocast(x.device.type, enabled=False):
        return _Weighed.apply(half, x, *half.parameters())


class _Weighed(torch.autograd.Function):
    """One half of an RGA module in training mode.

    Kept for the backward pass are the inputs of the batch norms; what comes after them is computed again, which is
    cheaper than to keep it. The gradients of θ, φ and g are written into one array.
    """

    @staticmethod
    def forward(ctx, half, x, *parameters):
        projected, *of_projected = _norm(half.project_norm, pointwise(x, half.project.weight))
        projected.relu_()
        factors = _factors(projected, half.relate.weight.flatten(1))
        related, *of_related = _norm(half.relate_norm, _related(factors, projected))
        g = projected[:, -projected.shape[1] // 3 :].mean(1, keepdim=True)
        # from here on the arrays are small: with autocast they are computed in the precision of the weights
        weight = half.squeeze.weight
        squeezed = pointwise(related.relu_(), weight[:, 1:]).to(weight.dtype).add_(g.to(weight.dtype) * weight[:, 0])
        squeezed, *of_squeezed = _norm(half.squeeze_norm, squeezed)
        score, *of_score = _norm(half.score_norm, pointwise(squeezed.relu_(), half.score.weight))
        gate = score.sigmoid_()
        ctx.half = half
        ctx.save_for_backward(x, factors, g, gate, *of_projected, *of_related, *of_squeezed, *of_score)
        return x * gate.to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, by_output):
        half = ctx.half
        x, factors, g, gate, *kept = ctx.saved_tensors
        of_projected, of_related, of_squeezed, of_score = (kept[n : n + 3] for n in range(0, 12, 3))
        by_gate = (by_output * x).sum(1, keepdim=True, dtype=gate.dtype)
        by_score, *score_norm = _norm_gradient(half.score_norm, by_gate * gate * (1 - gate), *of_score)
        squeezed = _normed(half.squeeze_norm, *of_squeezed).relu_()
        by_squeezed, score = _pointwise_gradient(by_score, squeezed, half.score.weight)
        by_squeezed, *squeeze_norm = _norm_gradient(half.squeeze_norm, by_squeezed, *of_squeezed, squeezed)
        weight = half.squeeze.weight
        by_g = (by_squeezed * weight[:, 0]).sum(1, keepdim=True)
        related = _normed(half.relate_norm, *of_related).relu_()
        by_related, squeeze = _pointwise_gradient(by_squeezed.to(x.dtype), related, weight[:, 1:])
        squeeze = torch.cat([(by_squeezed * g).sum((0, 2, 3))[:, None, None, None], squeeze], dim=1)
        by_related, *relate_norm = _norm_gradient(half.relate_norm, by_related, *of_related, related)
        del related
        projected = _normed(half.project_norm, *of_projected).relu_()
        by_projected, relate = _relations_gradient(by_related, by_g, projected, factors, half.relate.weight.flatten(1))
        by_projected, *project_norm = _norm_gradient(half.project_norm, by_projected, *of_projected, projected)
        by_x, project = _pointwise_gradient(by_projected, x, half.project.weight)
        by_x.addcmul_(by_output, gate.to(x.dtype))
        convolutions = (project, relate[:, :, None, None], squeeze, score)
        norms = (project_norm, relate_norm, squeeze_norm, score_norm)
        by_parameters = [value for conv, norm in zip(convolutions, norms, strict=True) for value in (conv, *norm)]
        return None, by_x, *(value.to(p.dtype) for value, p in zip(by_parameters, half.parameters(), strict=True))


def _norm(norm: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the normalised x, and what it takes to make it again: x, mean and variance."""
    mean, variance = torch.batch_norm_update_stats(x, norm.running_mean, norm.running_var, norm.momentum)
    return _normed(norm, x, mean, variance), x, mean, variance


def _normed(norm: nn.BatchNorm2d, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """The same operation in both passes: other rounding would make rectified numbers near 0 change sides."""
    return nn.functional.batch_norm(x, mean, variance, norm.weight, norm.bias, False, 0.0, norm.eps)


def _norm_gradient(
    norm: nn.BatchNorm2d, gradient: Tensor, x: Tensor, mean: Tensor, variance: Tensor, output: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias; with an `output`, it was rectified."""
    if output is not None:
        gradient = aten.threshold_backward(gradient, output, 0)
    every, scale = [True, True, True], (variance + norm.eps).rsqrt()
    return aten.native_batch_norm_backward(gradient, x, norm.weight, None, None, mean, scale, True, norm.eps, every)


def _pointwise_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and weight of `pointwise`."""
    weight = weight.to(x.dtype).flatten(1)[:, :, None, None]
    plain = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False])  # stride 1, no padding, no bias
    return aten.convolution_backward(gradient, x, weight, None, *plain)[:2]


def _relations_gradient(
    by_relations: Tensor, by_g: Tensor, projected: Tensor, factors: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of θ, φ and g in one array, and of the weight (K, 2M)."""
    short, rows = projected.shape[1] // 3, projected.is_contiguous()
    gradient = torch.empty_like(projected)
    gradient[:, 2 * short :] = by_g / short
    theta_phi, by_theta_phi = (array.flatten(2)[:, : 2 * short] for array in (projected, gradient))  # (B, 2F, M)
    by_relations = by_relations.flatten(2)  # (B, K, M)
    by_in, by_out = (by_relations @ theta_phi.mT).chunk(2, dim=2)  # (B, K, F) each
    w_in, w_out = weight.to(projected.dtype).expand(len(projected), -1, -1).chunk(2, dim=2)  # (B, K, M) each
    by_theta_phi.copy_(_product(factors.mT, by_relations, rows))
    by_theta_phi[:, :short] += _product(by_out.mT, w_out, rows)
    by_theta_phi[:, short:] += _product(by_in.mT, w_in, rows)
    theta, phi = theta_phi.chunk(2, dim=1)
    return gradient, torch.cat([_over_batch(by_in, phi), _over_batch(by_out, theta)], dim=1)


def _over_batch(first: Tensor, second: Tensor) -> Tensor:
    """Return the sum of first[b] @ second[b] over b, (B, I, J) and (B, J, K) to (I, K), as one product."""
    return first.transpose(0, 1).flatten(1) @ second.flatten(0, 1)
