import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lvc_zoo import RandomAccess, create_model
from lvc_zoo.codec.picture import Picture
from lvc_zoo.codec.sequence import code_sequence
from lvc_zoo.entropy.coder import RateEstimator
from lvc_zoo.evaluation.complexity import measure_complexity, padded_720p
from lvc_zoo.gop import FrameType
from lvc_zoo.models.biecvc import BiECVC
from tests.miniature import CONFIG

SIZE = (64, 128)
DCVC_DC_KMAC = {
    "motion.estimator": 318.62,
    "miner.align": 30.96,
    "motion.encoder": 30.96,
    "motion.decoder": 28.70,
    "miner.pyramid": 101.38,
    "miner.fusion": 264.38,
    "encoder": 74.88,
    "latents.quadtree.networks.0": 35.64,
    "decoder": 129.02,
    "reconstruction": 284.49,
}
"""Of the reference sheet, section 2.3: a steady-state P frame of 256x256."""


@pytest.fixture(scope="module")
def paper_size():
    return measure_complexity(create_model("biecvc"))


@pytest.fixture(scope="module")
def tiny():
    return measure_complexity(create_model("biecvc-tiny"))


def parameters(result):
    return sum(part.parameters["total"] for part in result.values())


def test_biecvc_parameters_match_paper(paper_size):
    assert parameters(paper_size) == pytest.approx(63.9e6, rel=0.005)
    assert parameters(paper_size) == sum(p.numel() for p in create_model("biecvc").parameters())


def test_biecvc_kmac_match_paper(paper_size):
    columns = paper_size["inter"].columns
    assert columns["uncached, read only"]["total"] == pytest.approx(2869, rel=0.002)
    assert columns["cached"]["total"] == pytest.approx(2685, rel=0.005)


def test_biecvc_attention_is_counted_apart(paper_size):
    # per scale and side: K^T V and its product with Q, head_dim * D_l MACs each at 1 / 4^l of the pixels, in thousands
    products = {level: 2 * 16 * width / 4**level / 1000 for level, width in enumerate((48, 64, 96))}
    summaries = sum(4 * value / 2 for value in products.values())
    queries = 2 * sum((2, 4, 4)[level] * value / 2 for level, value in products.items())
    assert paper_size["inter"].attention["uncached"] == pytest.approx(summaries + queries)


def test_biecvc_rows_add_up(paper_size):
    for part in paper_size.values():
        for column in (part.parameters, *part.columns.values()):
            assert sum(column.values()) - column["total"] == pytest.approx(column["total"])


def test_biecvc_tiny_fits_its_budget(tiny):
    assert parameters(tiny) <= 8e6
    assert tiny["inter"].columns["cached"]["total"] <= 150


def test_dcvc_dc_parameters_and_first_p_frame_match_published_counts():
    inter = measure_complexity(create_model("dcvc-dc"))["inter"]
    assert inter.parameters["total"] == 19_778_563
    assert inter.columns["first P after I"]["total"] == pytest.approx(1332.96, rel=1e-4)


def test_dcvc_dc_steady_state_matches_published_counts_by_module():
    columns = measure_complexity(create_model("dcvc-dc"), (256, 256))["inter"].columns
    assert columns["first P after I"]["total"] == pytest.approx(1332.82, rel=1e-4)
    assert columns["steady-state P"]["total"] == pytest.approx(1335.58, rel=1e-4)
    found = {name: columns["steady-state P"][name] for name in DCVC_DC_KMAC}
    assert found == pytest.approx(DCVC_DC_KMAC, abs=0.006)


def test_dcvc_tcm_steady_state_matches_published_counts():
    inter = measure_complexity(create_model("dcvc-tcm"), (256, 256))["inter"]
    assert inter.parameters["total"] == 10_708_989
    assert inter.columns["steady-state P"]["total"] == pytest.approx(1379.9, rel=1e-3)


def test_default_size_is_padded_as_the_codec_pads():
    assert padded_720p(create_model("biecvc-tiny")) == (720, 1280)
    assert padded_720p(create_model("dcvc-tcm")) == (768, 1280)


def macs_of(action):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        result = action()
    return result, counter.get_total_flops() / 2


def picture_on_meta(poc):
    return torch.empty(1, 3, *SIZE, device="meta")


picture_on_meta.size = SIZE


def test_cached_average_equals_running_every_frame():
    intra_period = 4
    counted = measure_complexity(BiECVC(CONFIG), SIZE, intra_period)["inter"]
    codec = BiECVC(CONFIG).eval().to("meta")
    plans = RandomAccess(intra_period).plans(intra_period + 1)
    rate = torch.zeros(1, device="meta")
    frames = code_sequence(codec, picture_on_meta, plans, lambda _: RateEstimator(), rate)
    _, opening = macs_of(lambda: codec.inter.reference(Picture(picture_on_meta(0)), plans[0]))
    total = -opening  # the GOP before has paid for it
    for plan in plans:
        frame, macs = macs_of(lambda: next(frames))
        assert frame.plan == plan
        total += macs if plan.frame_type is FrameType.B else 0
    average = total / (intra_period - 1) / (1000 * SIZE[0] * SIZE[1])
    assert counted.columns["cached"]["total"] + counted.attention["cached"] == pytest.approx(average)


def test_measure_complexity_unpadded_size_raises():
    with pytest.raises(ValueError, match="not a multiple of 16"):
        measure_complexity(create_model("biecvc-tiny"), (1080, 1920))
