"""The relations of RGA in two forms, and a training step of the quick one with its derivative by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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


def fused_supported(half: nn.Module, x: Tensor) -> bool:
    """Say whether `fused_forward` does for `half` what its layers would do one by one.

    It needs plain convolutions, and plain batch norms in training mode with more than one number a channel; others,
    such as those that look at the batches of several processes, are left to autograd.
    """
    convolutions = (half.project, half.relate, half.squeeze, half.score)
    plain = all(type(one) is nn.Conv2d for one in convolutions) and all(
        type(norm) is nn.BatchNorm2d and norm.training and norm.track_running_stats and norm.momentum is not None
        for norm in half.norms()
    )
    several = x.shape[0] * x.shape[2:].numel() > 1
    return half.method == "factored" and plain and several and torch.is_grad_enabled()


def fused_forward(half: nn.Module, x: Tensor) -> Tensor:
    """Return x times the gates of `half`, keeping as little as possible for the backward pass.

    Args:
        half: in training mode, with the factored method; `fused_supported` tells.
        x: (B, F, H, W).
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    norms = half.norms()
    for norm in norms:
        norm.num_batches_tracked.add_(1)
    convolutions = [one.weight for one in (half.project, half.relate, half.squeeze, half.score)]
    with torch.autocast(x.device.type, enabled=False):
        return _FusedHalf.apply(x, norms, *convolutions, *(p for norm in norms for p in (norm.weight, norm.bias)))


class _FusedHalf(torch.autograd.Function):
    """One half of an RGA module in training mode.

    Kept for the backward pass are the inputs of the batch norms; what comes after them is computed again, which is
    cheaper than to keep it. The gradients of θ, φ and g are written into one array.
    """

    @staticmethod
    def forward(ctx, x, norms, project, relate, squeeze, score, *scales):
        pairs = [(norm, *scales[2 * n : 2 * n + 2]) for n, norm in enumerate(norms)]
        projected, *of_projected = _norm(pointwise(x, project), *pairs[0])
        projected.relu_()
        factors = _factors(projected, relate.flatten(1))
        related, *of_related = _norm(_related(factors, projected), *pairs[1])
        g = projected[:, -projected.shape[1] // 3 :].mean(1, keepdim=True)
        # from here on the arrays are small: with autocast they are computed in the precision of the weights
        squeezed = pointwise(related.relu_(), squeeze[:, 1:]).to(squeeze.dtype)
        squeezed, *of_squeezed = _norm(squeezed.add_(g.to(squeeze.dtype) * squeeze[:, 0]), *pairs[2])
        gate, *of_score = _norm(pointwise(squeezed.relu_(), score), *pairs[3])
        gate.sigmoid_()
        ctx.eps = [norm.eps for norm in norms]
        kept = (*of_projected, *of_related, *of_squeezed, *of_score)
        ctx.save_for_backward(x, factors, g, gate, project, relate, squeeze, score, *kept)
        return x * gate.to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, by_output):
        x, factors, g, gate, project, relate, squeeze, score, *kept = ctx.saved_tensors
        of_projected, of_related, of_squeezed, of_score = (
            (*kept[5 * n : 5 * n + 5], eps) for n, eps in enumerate(ctx.eps)
        )
        by_gate = (by_output * x).sum(1, keepdim=True, dtype=gate.dtype)
        by_score, *score_norm = _norm_gradient(by_gate * gate * (1 - gate), of_score)
        squeezed = _normed(*of_squeezed).relu_()
        by_squeezed, to_score = _pointwise_gradient(by_score, squeezed, score)
        by_squeezed, *squeeze_norm = _norm_gradient(by_squeezed, of_squeezed, squeezed)
        by_g = (by_squeezed * squeeze[:, 0]).sum(1, keepdim=True)
        related = _normed(*of_related).relu_()
        by_related, to_squeeze = _pointwise_gradient(by_squeezed.to(x.dtype), related, squeeze[:, 1:])
        to_squeeze = torch.cat([(by_squeezed * g).sum((0, 2, 3))[:, None, None, None], to_squeeze], dim=1)
        by_related, *relate_norm = _norm_gradient(by_related, of_related, related)
        del related
        projected = _normed(*of_projected).relu_()
        by_projected, to_relate = _relations_gradient(by_related, by_g, projected, factors, relate.flatten(1))
        by_projected, *project_norm = _norm_gradient(by_projected, of_projected, projected)
        by_x, to_project = _pointwise_gradient(by_projected, x, project)
        by_x.addcmul_(by_output, gate.to(x.dtype))
        by_weights = (to_project, to_relate[:, :, None, None], to_squeeze, to_score)
        by_weights += (*project_norm, *relate_norm, *squeeze_norm, *score_norm)
        return by_x, None, *(value.to(score.dtype) for value in by_weights)


def _norm(x: Tensor, norm: nn.BatchNorm2d, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """Return the normalised x, and what it takes to make it again: x, mean, variance, weight, bias."""
    mean, variance = torch.batch_norm_update_stats(x, norm.running_mean, norm.running_var, norm.momentum)
    return _normed(x, mean, variance, weight, bias, norm.eps), x, mean, variance, weight, bias


def _normed(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The same operation in both passes: other rounding would make rectified numbers near 0 change sides."""
    return nn.functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)


def _norm_gradient(gradient: Tensor, kept: tuple, output: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias; with an `output`, it was rectified."""
    x, mean, variance, weight, _, eps = kept
    if output is not None:
        gradient = aten.threshold_backward(gradient, output, 0)
    every, scale = [True, True, True], (variance + eps).rsqrt()
    return aten.native_batch_norm_backward(gradient, x, weight, None, None, mean, scale, True, eps, every)


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
