import pytest
import torch
import torch.nn.functional as F

from lvc_zoo.blocks.motion import BlockMatching, SpyNet, accumulate_flow, flow_pyramid, upsample_flow, warp
from tests.gradients import assert_gradients_reach_all


def gather_warp(x, flow):
    """Position by position, float64."""
    batch, _, height, width = x.shape
    out = torch.empty_like(x, dtype=torch.float64)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                column = min(max(j + float(flow[b, 0, i, j]), 0), width - 1)
                row = min(max(i + float(flow[b, 1, i, j]), 0), height - 1)
                top, left = int(row), int(column)
                down, right = row - top, column - left
                bottom, far = min(top + 1, height - 1), min(left + 1, width - 1)
                upper = x[b, :, top, left] * (1 - right) + x[b, :, top, far] * right
                lower = x[b, :, bottom, left] * (1 - right) + x[b, :, bottom, far] * right
                out[b, :, i, j] = upper * (1 - down) + lower * down
    return out


@pytest.mark.parametrize("size", [(6, 9), (1, 7), (5, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_warp_equals_direct_gather(size, dtype):
    torch.manual_seed(0)
    x, flow = torch.rand(2, 3, *size).double(), torch.randn(2, 2, *size).double() * 3
    out = warp(x.to(dtype), flow.to(dtype))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(out.double(), gather_warp(x, flow), rtol=0, atol=tolerance)


def test_warp_by_zero_flow_is_identity_to_a_millionth():
    x = torch.rand(1, 3, 45, 80)
    torch.testing.assert_close(warp(x, torch.zeros(1, 2, 45, 80)), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_warp_by_absurd_flow_returns(value):
    out = warp(torch.rand(1, 1, 4, 4), torch.full((1, 2, 4, 4), value))
    assert bool(out.isfinite().all())


@pytest.mark.parametrize("shape", [(1, 2, 4, 5), (1, 1, 4, 4), (1, 4, 4, 4)])
def test_warp_with_wrong_flow_shape_raises(shape):
    with pytest.raises(ValueError, match=r"flow has shape .* expected \(B, 2, 4, 4\)"):
        warp(torch.zeros(1, 3, 4, 4), torch.zeros(shape))


@pytest.mark.parametrize("picture", ["noise, whole pixels", "plane, any flow"])
def test_accumulated_flow_equals_warping_twice(picture):
    """Where interpolation is exact (whole pixels, or a plane) both ways meet, border positions apart."""
    torch.manual_seed(0)
    height, width, reach = 16, 20, 2
    near, far = (torch.rand(2, 1, 2, height, width, dtype=torch.float64) * 2 - 1) * reach
    if picture.startswith("noise"):
        x, near, far = torch.rand(1, 3, height, width, dtype=torch.float64), near.round(), far.round()
    else:
        row = torch.arange(height, dtype=torch.float64)[:, None].expand(height, width)
        column = torch.arange(width, dtype=torch.float64).expand(height, width)
        x = torch.stack([0.3 * row - 0.2 * column, column])[None]
    inside = (..., slice(2 * reach, -2 * reach), slice(2 * reach, -2 * reach))
    twice = warp(warp(x, far), near)
    at_once = warp(x, accumulate_flow(near, far))
    torch.testing.assert_close(at_once[inside], twice[inside], rtol=0, atol=1e-9)


def test_flow_pyramid_of_constant_flow_halves_it():
    flow = torch.tensor([4.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 16, 24)
    pyramid = flow_pyramid(flow, 3)
    assert [tuple(f.shape) for f in pyramid] == [(1, 2, 16, 24), (1, 2, 8, 12), (1, 2, 4, 6)]
    for level, scaled in enumerate(pyramid):
        assert torch.equal(scaled, flow[..., : scaled.shape[-2], : scaled.shape[-1]] / 2**level)


def test_flow_pyramid_of_one_level_is_the_flow():
    flow = torch.rand(1, 2, 5, 7)
    assert [f is flow for f in flow_pyramid(flow, 1)] == [True]


def test_flow_pyramid_of_indivisible_size_raises():
    with pytest.raises(ValueError, match=r"flow of 18x20 .* multiples of 4"):
        flow_pyramid(torch.zeros(1, 2, 18, 20), 3)


def test_upsample_flow_of_constant_flow_doubles_it():
    assert torch.equal(upsample_flow(torch.full((1, 2, 3, 4), 1.5)), torch.full((1, 2, 6, 8), 3.0))


@pytest.mark.parametrize(("finest", "levels"), [(0, 4), (1, 3)])
def test_spynet_gives_flow_of_picture_size_and_trains(finest, levels):
    torch.manual_seed(0)
    net = SpyNet((8, 8, 8, 8), 3, finest)
    flow = net(torch.rand(2, 3, 32, 48), torch.rand(2, 3, 32, 48))
    assert flow.shape == (2, 2, 32, 48)
    assert len(net.levels) == levels
    assert_gradients_reach_all(net, flow)


def test_spynet_parameter_count_is_published_one():
    assert sum(p.numel() for p in SpyNet().parameters()) == 960200


def test_spynet_with_silent_networks_sees_no_motion():
    net = SpyNet((8,), 3)
    for level in net.levels:
        torch.nn.init.zeros_(level[-1].weight)
        torch.nn.init.zeros_(level[-1].bias)
    assert not net(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)).any()


@pytest.mark.parametrize("shift", [(0.0, 0.0), (5.0, -3.0), (-17.0, 9.0), (2.5, 0.75)], ids=str)
def test_block_matching_finds_a_shift(shift):
    torch.manual_seed(0)
    texture = F.avg_pool2d(torch.rand(1, 3, 134, 166), 7, 1)  # smooth over seven pixels
    reference = texture[..., :128, :160]
    flow = torch.tensor(shift).view(1, 2, 1, 1).expand(1, 2, 128, 160)
    found = BlockMatching()(warp(reference, flow), reference)
    inner = (slice(None), slice(None), slice(32, -32), slice(32, -32))
    torch.testing.assert_close(found[inner], flow[inner], atol=0.13, rtol=0)


def test_block_matching_splits_a_block_between_two_motions():
    torch.manual_seed(0)
    reference = F.avg_pool2d(torch.rand(1, 3, 70, 102), 7, 1)
    flow = torch.zeros(1, 2, 64, 96)
    flow[:, 0, :, 56:] = 4.0  # an edge through the middle of 16x16 blocks
    found = BlockMatching(smoothness=1e-4)(warp(reference, flow), reference)
    assert float((found - flow)[..., 16:-16, 24:-24].abs().max()) < 0.3


def test_block_matching_batch_equals_single_runs_and_needs_no_gradient():
    torch.manual_seed(0)
    x, reference = torch.rand(3, 3, 32, 48, requires_grad=True), torch.rand(3, 3, 32, 48)
    flow = BlockMatching(reach=8)(x, reference)
    assert not flow.requires_grad
    single = torch.cat([BlockMatching(reach=8)(a, b) for a, b in zip(x.split(1), reference.split(1), strict=True)])
    assert torch.equal(flow, single)


def cubic_weights(fraction: float, a: float = -0.75) -> list[float]:
    """Keys' cubic convolution kernel at the four neighbours of a position, as PyTorch parametrises it."""
    near = [(a + 2) * d**3 - (a + 3) * d**2 + 1 for d in (fraction, 1 - fraction)]
    far = [a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a for d in (1 + fraction, 2 - fraction)]
    return [far[0], near[0], near[1], far[1]]


def test_warp_bicubic_is_cubic_convolution() -> None:
    torch.manual_seed(0)
    line = torch.rand(9)
    flow = torch.zeros(1, 2, 1, 9)
    flow[:, 0] = 0.3

    warped = warp(line.reshape(1, 1, 1, 9), flow, "bicubic").flatten()

    weights = torch.tensor(cubic_weights(0.3))
    expected = torch.stack([(weights * line[i - 1 : i + 3]).sum() for i in range(1, 7)])
    torch.testing.assert_close(warped[1:7], expected, rtol=1e-4, atol=1e-5)


def test_warp_bicubic_keeps_more_detail_than_bilinear() -> None:
    columns = torch.arange(64.0)
    wave = torch.sin(columns * 1.2).reshape(1, 1, 1, 64).repeat(1, 1, 4, 1)
    flow = torch.zeros(1, 2, 4, 64)
    flow[:, 0] = 0.5
    expected = torch.sin((columns + 0.5) * 1.2)[4:-4]

    errors = {mode: (warp(wave, flow, mode)[0, 0, 0, 4:-4] - expected).abs().mean() for mode in ("bilinear", "bicubic")}

    assert errors["bicubic"] < 0.5 * errors["bilinear"]
