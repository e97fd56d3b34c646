import pytest
import torch
from torch.nn import functional

from lvc_zoo.blocks.alignment import OffsetDiversity
from lvc_zoo.blocks.motion import warp
from tests.gradients import assert_gradients_reach_all


def inputs(batch, channels=8, height=12, width=20):
    generator = torch.Generator().manual_seed(0)
    feature, warped = (torch.randn(batch, n, height, width, generator=generator) for n in (channels, channels + 3))
    return feature, warped, 3 * torch.randn(batch, 2, height, width, generator=generator)


def align(**arguments):
    torch.manual_seed(1)
    return OffsetDiversity(8, groups=4, width=16, **arguments)


def one_by_one(block, feature, warped, flow):
    """The reference sheet's section 2.4, warp by warp: chunk, offset pair and mask of the same number."""
    predicted = block.predict(torch.cat([warped, flow], dim=1))
    predicted = functional.interpolate(predicted, scale_factor=2, mode="bilinear", align_corners=False)
    samples, size = block.groups * block.offsets, feature.shape[1] // block.groups
    result = []
    for i in range(samples):
        group = i % block.groups
        offset = block.reach * predicted[:, 2 * i : 2 * i + 2].tanh()
        mask = predicted[:, 2 * samples + i : 2 * samples + i + 1].sigmoid()
        result.append(mask * warp(feature[:, group * size : (group + 1) * size], flow + offset))
    weight, bias = block.fusion.weight, block.fusion.bias
    mixed = [
        functional.conv2d(torch.cat(result[n * block.offsets : (n + 1) * block.offsets], dim=1), w, b)
        for n, (w, b) in enumerate(zip(weight.split(size), bias.split(size), strict=True))
    ]
    return torch.cat(mixed, dim=1)


def test_alignment_equals_warps_one_by_one():
    block = align()
    torch.testing.assert_close(block(*inputs(2)), one_by_one(block, *inputs(2)))


def test_alignment_of_batch_equals_single_runs():
    block, batch = align(), inputs(3)
    with torch.no_grad():
        single = [block(*(part[i : i + 1] for part in batch)) for i in range(3)]
        torch.testing.assert_close(block(*batch), torch.cat(single), rtol=1e-5, atol=1e-5)


def test_alignment_parameter_count_is_published_one():
    assert sum(p.numel() for p in OffsetDiversity(48).parameters()) == 123_248


def test_alignment_gradients_reach_all_parameters():
    block = align(reach=2.0)
    assert_gradients_reach_all(block, block(*inputs(1)))


def test_alignment_any_thread_count_gives_same_bits():
    torch.manual_seed(0)
    block, parts, before = OffsetDiversity(48), inputs(1, 48, 34, 50), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with torch.no_grad():
                results.append(block(*parts))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_alignment_channels_that_do_not_split_raise():
    with pytest.raises(ValueError, match="10 channels do not split into 4 groups"):
        OffsetDiversity(10, groups=4)
