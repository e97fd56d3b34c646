from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.colors import hsv_to_rgb

from lvc_zoo.blocks.attention import LinearAttention
from lvc_zoo.data.datasets import TrainingClip
from lvc_zoo.training.pictures import (
    RDPictures,
    attention_map,
    code_clip,
    draw_bits,
    draw_flow,
    draw_pictures,
    reference_order,
)
from lvc_zoo.training.tasks import BiECVCTask, IntraTask
from tests.miniature import moving_clip


@pytest.fixture(scope="module")
def clip():
    return moving_clip(5, 64, 64)


@pytest.fixture(scope="module")
def coded(clip):
    torch.manual_seed(0)
    return code_clip(BiECVCTask(variant="biecvc-tiny"), clip[None], stride=1)


def test_pictures_of_a_clip_show_source_above_decoded_above_error(coded, clip):
    picture = draw_pictures(coded, (0.5, 0.5), count=3)["coding"]
    assert picture.shape == (3, 3 * 64, 3 * 64)  # the three B frames 1, 2, 3
    decoded = {frame.plan.poc: frame.x_hat[0] for frame in coded.frames}
    for column, poc in enumerate((1, 2, 3)):
        part = picture[:, :, 64 * column : 64 * (column + 1)]
        assert torch.equal(part[:, :64], clip[poc])
        assert torch.equal(part[:, 64:128], decoded[poc])
        torch.testing.assert_close(part[:, 128:] / 5, (decoded[poc] - clip[poc]).abs())


def test_pictures_hold_motion_gates_and_attention_of_biecvc(coded):
    pictures = draw_pictures(coded, (0.5, 0.5), count=1)
    assert {name: tuple(picture.shape) for name, picture in pictures.items()} == {
        "coding": (3, 3 * 64, 64),
        "motion": (3, 4 * 64, 64),  # flow and error, past and future
        "gates": (3, 3 * 64, 64),
        "attention": (3, 2 * 64, 3 * 64),  # the frame; past and future above their maps
    }
    attention = pictures["attention"][:, 64:, 64:]
    assert float(attention.max()) == 1
    assert float(attention.min()) > 0


def test_pictures_of_intra_frames_leave_out_what_they_lack(clip):
    coded = code_clip(IntraTask(variant="biecvc-tiny"), clip[None, :1], stride=1)
    assert set(draw_pictures(coded, (0.5, 0.5), count=5)) == {"coding"}


def test_bits_are_drawn_for_every_frame(coded):
    axis = draw_bits(coded).axes[0]
    frames = sorted(coded.frames, key=lambda frame: frame.plan.poc)
    assert [label.get_text().split("\n")[0] for label in axis.get_xticklabels()] == ["I0", "B1", "B2", "B3", "I4"]
    tops = {bar.get_x(): bar.get_y() + bar.get_height() for bar in axis.patches}  # the last part of a bar counts
    for (_, top), frame in zip(sorted(tops.items()), frames, strict=True):
        assert top == pytest.approx(sum(float(bits) for bits in frame.coder.bits.values()), rel=1e-4)


def test_reference_order_is_that_of_the_keys(coded):
    order = reference_order([frame.plan for frame in coded.trained])
    assert order == [0, 4, 2]
    assert len(coded.seen["miner.key.2"]) == len(order)


def test_attention_map_gives_the_weights_of_linear_attention():
    torch.manual_seed(0)
    heads, positions = 2, 6
    query, key = torch.randn(2, 1, heads * positions, 2, 3).unbind()
    # values that name their position: the context of a query is then the weight of each position
    value = torch.eye(positions).repeat(heads, 1).view(1, heads * positions, 2, 3)
    attention = LinearAttention(head_dim=positions)
    context = attention(query, attention.summarise(key, value))[0, :, 1, 2]
    weights = attention_map(query[0], key[0], positions, (1, 2))
    torch.testing.assert_close(weights.flatten(), context.view(heads, positions).mean(dim=0))
    assert float(weights.sum()) == pytest.approx(1)


def test_flow_colours_are_those_of_the_colour_wheel():
    torch.manual_seed(0)
    flow = torch.randn(2, 8, 40)
    length = flow.norm(dim=0)
    hue = (torch.atan2(flow[1], flow[0]) / (2 * np.pi)) % 1
    hsv = torch.stack([hue, length / length.max(), torch.ones_like(hue)], dim=-1)
    expected = torch.from_numpy(hsv_to_rgb(hsv.numpy())).permute(2, 0, 1)
    torch.testing.assert_close(draw_flow(flow)[:, :, 2:], expected[:, :, 2:], atol=1e-5, rtol=0)


def test_still_flow_is_white_around_the_wheel():
    picture = draw_flow(torch.zeros(2, 32, 32))
    assert torch.equal(picture[:, 8:], torch.ones(3, 24, 32))
    assert float(picture[:, :8, :8].min()) < 0.2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard
def test_callback_writes_every_picture_to_tensorboard_at_its_steps(clip, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    task, logger = BiECVCTask(variant="biecvc-tiny"), TensorBoardLogger(tmp_path)
    callback = RDPictures(every_n_steps=2, frames=1)
    for step in (1, 2, 3):
        trainer = SimpleNamespace(loggers=[logger], is_global_zero=True, global_step=step)
        callback.on_train_batch_end(trainer, task, None, TrainingClip(clip[None, :3], torch.ones(1)), 0)
    logger.experiment.close()
    events = EventAccumulator(logger.log_dir).Reload()
    names = {f"pictures/{name}" for name in ("coding", "motion", "gates", "attention", "bits")}
    assert set(events.Tags()["images"]) == names
    assert [event.step for event in events.Images("pictures/coding")] == [2]
    assert (events.Images("pictures/coding")[0].height, events.Images("pictures/coding")[0].width) == (192, 64)


def test_query_outside_the_picture_raises():
    with pytest.raises(ValueError, match=r"from \(0, 0\) to \(1, 1\)"):
        RDPictures(query=(0.5, 1.5))
