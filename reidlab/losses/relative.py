"""Relative distance comparison: a triplet objective on unit-norm features, and two ways to its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from reidlab.checks import feature_tensor, pid_tensor
from reidlab.distances import check_unit_norm


def generate_triplets(
    pids: Tensor,
    generator: torch.Generator,
    num_triplets: int | None = None,
    num_identities: int | None = None,
) -> Tensor:
    """Sample triplets from images that are in memory: identities first, then triplets within them.

    Every image of the chosen identities is an anchor in turn; its positive is sampled from its own identity,
    its negative from the other chosen ones.

    Args:
        pids: (B,) identities of the images.
        generator: on the CPU.
        num_triplets: how many; None for one per image that can be an anchor.
        num_identities: how many identities to use; None for all.

    Returns:
        (T, 3) indices of anchor, positive and negative. Identities with one image serve as negatives only.

    Raises:
        ValueError: no identity with two images, fewer than two identities, or numbers out of range.

    Example:
        >>> triplets = generate_triplets(torch.tensor([5, 5, 8, 8]), torch.Generator().manual_seed(0))
        >>> triplets[:, 0].tolist(), triplets[:, 1].tolist()
        ([0, 1, 2, 3], [1, 0, 3, 2])

    Source: Ding, Lin, Wang, Chao, "Deep feature learning with relative distance comparison for person
    re-identification", 2015, triplet generation.
    Taught in: notebooks/03_triplet_losses.ipynb
    """
    pids = pid_tensor(pids)
    identities = pids.cpu().unique()
    wanted = len(identities) if num_identities is None else num_identities
    if not 2 <= wanted <= len(identities):
        raise ValueError(
            f"got {len(identities)} identities to sample {wanted} from; a triplet needs two: "
            "put more identities into the batch, or set num_identities from 2 to their number"
        )
    if num_triplets is not None and num_triplets < 1:
        raise ValueError(f"num_triplets={num_triplets}: expected at least 1")
    order = identities[torch.randperm(len(identities), generator=generator)]
    paired = torch.stack([(pids.cpu() == pid).sum() > 1 for pid in order])
    if not paired.any():
        raise ValueError(f"none of the {len(identities)} identities has two images: no image has a positive; raise K")
    first = paired.int().argmax()  # so that there is an anchor, however few identities are wanted
    chosen = torch.cat([order[first : first + 1], order[:first], order[first + 1 :]])[:wanted]
    there = torch.isin(pids.cpu(), chosen)
    same = (pids[:, None] == pids[None, :]).cpu()
    positive = same & there & ~torch.eye(len(pids), dtype=torch.bool)
    anchors = (there & positive.any(1)).nonzero().flatten()
    if num_triplets is not None:  # every image once before any is used again
        rounds = -(-num_triplets // len(anchors))
        turns = [anchors[torch.randperm(len(anchors), generator=generator)] for _ in range(rounds)]
        anchors = torch.cat(turns)[:num_triplets]
    p = torch.multinomial(positive[anchors].float(), 1, generator=generator).flatten()
    n = torch.multinomial((there & ~same)[anchors].float(), 1, generator=generator).flatten()
    return torch.stack([anchors, p, n], dim=1).to(pids.device)  # (T, 3)


def relative_distance_loss(
    features: Tensor, triplets: Tensor, constant: float = -1.0, reduction: str = "mean"
) -> Tensor:
    """Compare squared distances of unit-norm features: max(|a - p|² - |a - n|², C) over triplets.

    The difference lies between -4 and 4. At C = -1 a triplet has no gradient once its negative is farther by 1;
    the smallest possible loss is C, not 0.

    Args:
        features: (B, D) of unit norm.
        triplets: (T, 3) indices of anchor, positive, negative.
        constant: C, where the hinge begins.
        reduction: "mean" over the triplets, or their "sum" as in the paper.

    Returns:
        A scalar ≥ C for the mean, ≥ T·C for the sum.

    Raises:
        ValueError: features not of unit norm, triplets of another shape or out of range, another reduction.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> round(relative_distance_loss(features, torch.tensor([[0, 1, 2]])).item(), 4)  # 0.8 - 2 is below -1
        -1.0
        >>> round(relative_distance_loss(features, torch.tensor([[1, 0, 2]])).item(), 4)  # 0.8 - 0.4
        0.4

    Source: Ding et al. 2015, the objective with C = -1.
    Taught in: notebooks/03_triplet_losses.ipynb
    """
    features = check_unit_norm(feature_tensor("features", features))
    _check_triplets(triplets, len(features))
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction={reduction!r}: expected 'mean' or 'sum'")
    features = features if features.dtype == torch.float64 else features.float()
    a, p, n = features[triplets].unbind(1)  # (T, 3, D) -> (T, D) each
    terms = (a - p).square().sum(1) - (a - n).square().sum(1)
    terms = F.threshold(terms, constant, constant)  # unlike clamp, in no version a gradient at the hinge itself
    return terms.mean() if reduction == "mean" else terms.sum()


@dataclass(frozen=True)
class RelativeGradient:
    """The gradient of the summed objective, and what it cost.

    Args:
        loss: the sum over the triplets.
        gradients: one tensor for each parameter, in their order.
        forward_passes: images sent through the network.
        backward_passes: gradients of one image's features taken.

    Taught in: notebooks/03_triplet_losses.ipynb
    """

    loss: float
    gradients: tuple[Tensor, ...] = field(repr=False)
    forward_passes: int
    backward_passes: int


def relative_distance_gradient(
    embed: Callable[[Tensor], Tensor],
    parameters: Sequence[Tensor],
    images: Tensor,
    triplets: Tensor,
    constant: float = -1.0,
    method: str = "image",
) -> RelativeGradient:
    """Compute the gradient of the summed relative distance objective, image by image or triplet by triplet.

    "triplet" passes the three images of each triplet forward and backward: 3T passes each way. "image" passes
    each image once, sums the derivatives of all triplets by its feature, and backpropagates the sum once. Both
    give the gradient of autograd, which works the second way: as many passes as images, however many triplets.

    Args:
        embed: turns images (n, …) into unit-norm features (n, D), each image independently: no batch norm in
            training mode.
        parameters: what to take the gradient for.
        images: (B, …).
        triplets: (T, 3) indices into `images`.
        constant: C of the objective.
        method: "image" or "triplet".

    Returns:
        A `RelativeGradient`.

    Raises:
        ValueError: another method, triplets that do not fit, features that are not of unit norm.

    Example:
        >>> weight = torch.eye(2, requires_grad=True)
        >>> def embed(x):
        ...     return torch.nn.functional.normalize(x @ weight)
        >>> images = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> triplets = torch.tensor([[0, 1, 2], [1, 0, 2]])
        >>> by_triplets = relative_distance_gradient(embed, [weight], images, triplets, method="triplet")
        >>> by_images = relative_distance_gradient(embed, [weight], images, triplets, method="image")
        >>> by_triplets.forward_passes, by_images.forward_passes
        (6, 3)
        >>> torch.allclose(by_triplets.gradients[0], by_images.gradients[0])
        True

    Source: Ding et al. 2015, algorithm 1 (triplets) and algorithms 2 and 3 (images).
    Taught in: notebooks/03_triplet_losses.ipynb
    """
    _check_triplets(triplets, len(images))
    if method not in ("image", "triplet"):
        raise ValueError(f"method={method!r}: expected 'image' or 'triplet'")
    parameters = list(parameters)
    loss, passes, total = 0.0, 0, [torch.zeros_like(p) for p in parameters]
    for group in [triplets] if method == "image" else triplets.split(1):
        if method == "image":
            used, places = group.unique(return_inverse=True)  # places (T, 3) among the images that are used
        else:
            used, places = group[0], torch.arange(3)[None]
        features = [check_unit_norm(embed(images[int(index)][None]))[0] for index in used]  # one forward pass each
        derivatives = [torch.zeros_like(feature) for feature in features]
        for triplet in places.tolist():
            a, p, n = (features[place].detach() for place in triplet)
            difference = (a - p).square().sum() - (a - n).square().sum()
            loss += max(difference.item(), constant)
            if difference > constant:
                for place, derivative in zip(triplet, (n - p, p - a, a - n), strict=True):
                    derivatives[place] += 2 * derivative
        for feature, derivative in zip(features, derivatives, strict=True):  # one backward pass each
            gradients = torch.autograd.grad(feature, parameters, derivative, allow_unused=True)
            for sum_so_far, gradient in zip(total, gradients, strict=True):
                if gradient is not None:  # a parameter that this feature does not depend on
                    sum_so_far += gradient
        passes += len(features)
    return RelativeGradient(loss, tuple(total), passes, passes)


def _check_triplets(triplets: Tensor, num_images: int) -> None:
    whole = isinstance(triplets, Tensor) and triplets.dtype in (torch.int64, torch.int32)  # others are masks to torch
    if not whole or triplets.ndim != 2 or triplets.shape[1] != 3 or not len(triplets):
        got = type(triplets).__name__
        if isinstance(triplets, Tensor):
            got = f"shape {tuple(triplets.shape)} {triplets.dtype}"
        raise ValueError(f"triplets: got {got}, expected (T, 3) integers, T > 0, as generate_triplets makes them")
    if triplets.min() < 0 or triplets.max() >= num_images:
        raise ValueError(
            f"triplets hold indices {int(triplets.min())} … {int(triplets.max())}, expected 0 … {num_images - 1}"
        )
