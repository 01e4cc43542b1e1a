import copy

import numpy as np
import pytest
import torch

from reidlab.models.rga import RelationAttention, RelationAwareAttention
from reidlab.models.rga_relations import fused_supported


def filled(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every weight, bias and running statistic at random, so that no term can hide behind a 0 or a 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            low = 0.5 if name.endswith(("running_var", "norm.weight")) else -0.5
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + low)
    return module


def maps(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def both_methods(dtype: torch.dtype = torch.float64, **arguments) -> tuple[RelationAwareAttention, ...]:
    factored = filled(RelationAwareAttention(**arguments).to(dtype))
    explicit = RelationAwareAttention(**arguments, method="explicit").to(dtype)
    explicit.load_state_dict(factored.state_dict())
    return factored, explicit


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(((got - wanted).abs().max() / wanted.abs().max()).detach())


def gate_by_loops(half: RelationAttention, x: np.ndarray) -> np.ndarray:
    """The gates of one image in evaluation mode, node by node; x is (F, M)."""
    weights = {name: tensor.double().numpy() for name, tensor in half.state_dict().items()}

    def normed(values: np.ndarray, name: str) -> np.ndarray:
        mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return (values - mean) / np.sqrt(var + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    nodes = x.shape[1]
    project = weights["project.weight"][:, :, 0, 0]
    theta, phi, g = [], [], []
    for i in range(nodes):
        rows = np.split(np.maximum(normed(project @ x[:, i], "project_norm"), 0), 3)
        for kind, row in zip((theta, phi, g), rows, strict=True):
            kind.append(row)
    gates = []
    for i in range(nodes):
        to_all = [theta[i] @ phi[j] for j in range(nodes)]
        from_all = [theta[j] @ phi[i] for j in range(nodes)]
        related = weights["relate.weight"][:, :, 0, 0] @ np.array(to_all + from_all)
        joint = np.concatenate([[g[i].mean()], np.maximum(normed(related, "relate_norm"), 0)])
        squeezed = np.maximum(normed(weights["squeeze.weight"][:, :, 0, 0] @ joint, "squeeze_norm"), 0)
        gates.append(1 / (1 + np.exp(-normed(weights["score.weight"][:, :, 0, 0] @ squeezed, "score_norm"))))
    return np.array(gates)[:, 0]


@pytest.mark.parametrize("method", ["factored", "explicit"])
def test_one_half_equals_loops_over_nodes(method):
    half = filled(RelationAttention(6, 16, reduction=2, method=method)).double().eval()
    x = maps(2, 16, 3, 2)
    with torch.no_grad():
        gates = half(x)
    for image in range(2):
        by_loops = gate_by_loops(half, x[image].flatten(1).numpy())
        np.testing.assert_allclose(gates[image].flatten().numpy(), by_loops, rtol=1e-10)


def test_channels_are_nodes_that_places_describe():
    module = filled(RelationAwareAttention(8, 3, 2, spatial=False, reduction=2)).double().eval()
    x = maps(1, 8, 3, 2)
    by_loops = gate_by_loops(module.channel, x[0].flatten(1).T.numpy())  # (6 features, 8 nodes)
    np.testing.assert_allclose(module.attention_maps(x).channel[0].numpy(), by_loops, rtol=1e-10)
    with torch.no_grad():
        np.testing.assert_allclose(module(x)[0].numpy(), x[0].numpy() * by_loops[:, None, None], rtol=1e-10)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "arguments",
    [
        {"channels": 32, "height": 8, "width": 4},
        {"channels": 64, "height": 4, "width": 2, "channel": False},
        {"channels": 16, "height": 12, "width": 4, "spatial": False},
        {"channels": 24, "height": 6, "width": 4, "reduction": 4},
    ],
)
def test_factored_and_explicit_have_the_same_values_and_gradients(arguments, training):
    x = maps(4, arguments["channels"], arguments["height"], arguments["width"])
    results = []
    for module in both_methods(**arguments):
        module.train(training)
        images = x.clone().requires_grad_()
        out = module(images)
        (out * maps(*out.shape, seed=2)).sum().backward()
        results.append((out, images.grad, {name: p.grad for name, p in module.named_parameters()}, module))
    (out, by_x, by_weights, one), (same_out, same_by_x, same_by_weights, other) = results
    assert relative(out, same_out) < 1e-10 and relative(by_x, same_by_x) < 1e-10
    largest = max(float(gradient.abs().max()) for gradient in by_weights.values())
    for name, gradient in by_weights.items():
        assert float((gradient - same_by_weights[name]).abs().max()) < 1e-10 * largest, name
    for (name, buffer), same in zip(one.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(buffer, same, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("shape", [(8, 64, 32, 16), (2, 256, 64, 32)])
def test_they_agree_in_single_precision_at_the_first_stage_of_a_backbone(shape):
    """Half a million rectified numbers: were they rounded otherwise in the backward pass, some would change sides."""
    x = maps(*shape, dtype=torch.float32)
    outs, gradients = [], []
    for module in both_methods(torch.float32, channels=shape[1], height=shape[2], width=shape[3]):
        images = x.clone().requires_grad_()
        outs.append(module.train()(images))
        (outs[-1] * maps(*x.shape, dtype=torch.float32, seed=2)).sum().backward()
        gradients.append(images.grad)
    assert relative(*outs) < 1e-5 and relative(*gradients) < 1e-5


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_the_derivative_by_hand_is_right(order):
    half = filled(RelationAttention(6, 8, reduction=4)).double().train()
    x = maps(3, 8, 3, 2).contiguous(memory_format=order).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: half.gated(x), (x, *half.parameters()))


def test_other_batch_norms_are_left_to_autograd():
    half = filled(RelationAttention(6, 16)).double().train()
    x = maps(3, 16, 3, 2).requires_grad_()
    assert fused_supported(half, x)
    by_hand = half.gated(x)

    class Other(torch.nn.BatchNorm2d):
        pass

    half.relate_norm.__class__ = Other
    assert not fused_supported(half, x)
    assert relative(half.gated(x), by_hand) < 1e-12
    half.relate_norm.__class__ = torch.nn.BatchNorm2d
    assert not fused_supported(half.eval(), x)
    torch.nn.utils.parametrize.register_parametrization(half.train().relate, "weight", torch.nn.Tanh())
    assert not fused_supported(half, x)


def test_the_derivative_by_hand_belongs_to_the_weights_of_the_forward_pass():
    half = filled(RelationAttention(6, 16)).double().train()
    x = maps(3, 16, 3, 2).requires_grad_()
    other = {name: 2 * p.detach() for name, p in half.named_parameters()}
    wanted = torch.autograd.grad(torch.func.functional_call(half, other, (x,)).mul(x).square().sum(), x)[0]
    half.forward = half.gated
    got = torch.autograd.grad(torch.func.functional_call(half, other, (x,)).square().sum(), x)[0]
    assert relative(got, wanted) < 1e-10
    out = half.gated(x)
    with torch.no_grad():
        half.relate.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_a_single_number_a_channel_is_refused_as_batch_norm_refuses_it():
    module = RelationAwareAttention(8, 1, 1).train()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        module(torch.randn(1, 8, 1, 1))
    assert all(torch.isfinite(buffer).all() for buffer in module.buffers())


def test_the_order_in_memory_changes_nothing():
    module = filled(RelationAwareAttention(16, 4, 2)).double()
    x = maps(3, 16, 4, 2)
    assert relative(module(x.to(memory_format=torch.channels_last)), module(x)) < 1e-12


def test_only_the_explicit_method_stores_the_relations():
    places = 32 * 16
    stored = {}
    for module in both_methods(torch.float32, channels=64, height=32, width=16):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            module.train()(maps(2, 64, 32, 16, dtype=torch.float32))
        stored[module.spatial.method] = max(sizes)
    assert stored["explicit"] >= 2 * places**2 > stored["factored"]


def test_with_half_precision_the_derivative_by_hand_is_no_worse_than_autograd():
    x = maps(8, 32, 8, 4, dtype=torch.float32)

    def gradient(module, precision):
        images = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision):
            out = module.train()(images)
        out.float().square().sum().backward()
        return images.grad

    factored, explicit = both_methods(torch.float32, channels=32, height=8, width=4)
    exact = gradient(explicit, False)
    by_hand, by_autograd = (float((gradient(one, True) - exact).norm() / exact.norm()) for one in (factored, explicit))
    assert 0 < by_hand < 1.5 * by_autograd < 0.3


def test_relations_on_a_2_by_2_map_by_hand():
    half = RelationAttention(nodes=4, features=2, reduction=1)
    with torch.no_grad():
        half.project.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [0, 1], [1, 0], [1, 1], [1, 1]])[:, :, None, None])
    half.eval()
    for norm in (half.project_norm,):
        norm.eps = 0.0
    x = torch.tensor([[[1.0, 2], [3, 4]], [[0, 1], [1, 0]]])[None]  # two features of four places
    # theta_i = (a_i, b_i), phi_j = (b_j, a_j): relation = a_i * b_j + b_i * a_j
    a, b = x[0].flatten(1)
    assert torch.equal(half.relations(x)[0], a[:, None] * b + b[:, None] * a)
    assert half.relations(x)[0, 1].tolist() == [1, 4, 5, 4]


def test_the_two_stackings_are_told_apart():
    half = filled(RelationAttention(6, 16, reduction=2)).double().eval()
    x = maps(2, 16, 3, 2)
    with torch.no_grad():
        before = half(x)
        half.relate.weight.copy_(half.relate.weight.roll(6, dims=1))
        assert relative(half(x), before) > 1e-3
        third = half.project.weight.shape[0] // 3
        for name in (
            "project.weight",
            *(f"project_norm.{n}" for n in ("weight", "bias", "running_mean", "running_var")),
        ):
            tensor = half.state_dict()[name]
            tensor[third : 2 * third] = tensor[:third]  # phi = theta: relations become symmetric
        symmetric = half(x)
        half.relate.weight.copy_(half.relate.weight.roll(6, dims=1))
        assert relative(half(x), symmetric) < 1e-12


def test_gates_lie_between_0_and_1_and_are_what_the_map_is_multiplied_by():
    module = filled(RelationAwareAttention(16, 4, 2)).double().eval()
    x = maps(2, 16, 4, 2)
    gates = module.attention_maps(x)
    assert gates.spatial.shape == (2, 4, 2) and gates.channel.shape == (2, 16)
    assert all(gate.min() > 0 and gate.max() < 1 for gate in gates)
    with torch.no_grad():
        torch.testing.assert_close(module(x), x * gates.spatial[:, None] * gates.channel[:, :, None, None])
    half = filled(RelationAwareAttention(16, 4, 2, spatial=False)).double().eval().attention_maps(x)
    assert half.spatial is None and half.channel.shape == (2, 16)


def test_sizes_of_the_published_modules():
    def size(**arguments):
        return sum(p.numel() for p in RelationAwareAttention(**arguments).parameters())

    assert size(channels=256, height=64, width=32) == 2_673_172  # counted in the published module
    one = size(channels=256, height=16, width=8, channel=False) + size(channels=256, height=16, width=8, spatial=False)
    assert one == size(channels=256, height=16, width=8)


def test_another_size_is_refused_with_the_size_it_was_built_for():
    module = RelationAwareAttention(16, 8, 4)
    with pytest.raises(ValueError, match="built for 8×4 maps of 16 channels, got 12×4 maps of 16 channels"):
        module(torch.zeros(1, 16, 12, 4))
    with pytest.raises(ValueError, match="got 8×4 maps of 8 channels"):
        module.attention_maps(torch.zeros(1, 8, 8, 4))
    with pytest.raises(ValueError, match=r"got shape \(16, 8, 4\)"):
        module(torch.zeros(16, 8, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial": False, "channel": False}, "leaves nothing to do"),
        ({"method": "fast"}, "method='fast': expected one of factored, explicit"),
        ({"reduction": 0}, "reduction=0: expected a whole number of at least 1"),
        ({"height": 0}, "height=0: expected a whole number"),
        ({"channels": 2.5}, "channels=2.5: expected a whole number"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RelationAwareAttention(**{"channels": 16, "height": 8, "width": 4, **arguments})


def test_small_maps_keep_at_least_one_channel_of_everything():
    module = RelationAwareAttention(4, 2, 2)
    assert module(torch.rand(2, 4, 2, 2)).shape == (2, 4, 2, 2)
    assert module.spatial.relate.weight.shape == (1, 8, 1, 1)


def test_gates_that_start_at_one_half():
    x = maps(2, 16, 8, 4, dtype=torch.float32)
    module = RelationAwareAttention(16, 8, 4, gate_init="half").train()
    assert torch.equal(module(x), x / 4)
    module(x).square().sum().backward()
    assert module.spatial.score_norm.weight.grad.abs() > 0  # they do not stay there
    assert RelationAwareAttention(16, 8, 4).train()(x).sub(x / 4).abs().max() > 0.01
    with pytest.raises(ValueError, match="gate_init='even': expected one of random, half"):
        RelationAwareAttention(16, 8, 4, gate_init="even")


def test_it_can_be_traced_as_a_whole_for_torch_compile():
    module = filled(RelationAwareAttention(16, 4, 2, channel=False)).train()
    x = maps(3, 16, 4, 2, dtype=torch.float32)
    compiled = torch.compile(copy.deepcopy(module), backend="aot_eager", fullgraph=True)
    gradients = []
    for one in (module, compiled):
        images = x.clone().requires_grad_()
        one(images).square().sum().backward()
        gradients.append(images.grad)
    assert relative(*gradients) < 1e-4
    for one, other in zip(module.parameters(), compiled.parameters(), strict=True):
        assert float((one.grad - other.grad).norm()) < 1e-4 * float(gradients[0].norm())
