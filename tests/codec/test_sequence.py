from collections import Counter

import pytest
import torch

from lvc_zoo.codec.picture import Picture
from lvc_zoo.codec.sequence import Stored, code_sequence
from lvc_zoo.gop import FramePlan, FrameType, LowDelay, RandomAccess


class Echo:
    """A codec of one network: a picture is its source, a reference its POC; it remembers what it was asked."""

    def __init__(self, gain=1.0):
        self.gain = gain
        self.coded, self.made, self.infos = [], Counter(), []

    def network(self, frame_type):
        return self

    def reference(self, picture, plan):
        self.made[plan.poc] += 1
        return plan.poc, picture.x_hat

    def __call__(self, x, references, coder, info):
        self.coded.append((info.plan.poc, tuple(r and r[0] for r in references), coder))
        self.infos.append(info)
        return Picture(x * self.gain, state=references, motion=(x,))


class Clip:
    """Frames of one pixel whose value is their POC over 100."""

    size = (1, 1)

    def __call__(self, poc):
        return torch.full((1, 3, 1, 1), poc / 100)


def run(plans, codec=None, rate=0.0, **options):
    codec = codec or Echo()
    rate = rate if callable(rate) else torch.tensor([rate])
    return codec, list(code_sequence(codec, Clip(), plans, lambda plan: f"coder of {plan.poc}", rate, **options))


@pytest.mark.parametrize("structure", [RandomAccess(8), LowDelay(None), LowDelay(4)], ids=str)
def test_loop_codes_in_order_of_plans_with_their_references(structure):
    plans = structure.plans(13)
    codec, frames = run(plans)
    assert codec.coded == [(plan.poc, plan.references, f"coder of {plan.poc}") for plan in plans]
    assert [frame.plan for frame in frames] == plans
    assert [frame.coder for frame in frames] == [f"coder of {plan.poc}" for plan in plans]


@pytest.mark.parametrize(
    ("structure", "num_frames", "peak"),
    # entries between two frames: reference sheet, section 1.2; low delay holds the frame before
    [
        (RandomAccess(32), 33, 6),
        (RandomAccess(32), 97, 6),
        (RandomAccess(64), 65, 7),
        (LowDelay(None), 20, 1),
        (LowDelay(1), 5, 0),
    ],
    ids=str,
)
def test_dpb_peak_is_as_published_and_ends_empty(structure, num_frames, peak):
    dpb, plans = {}, structure.plans(num_frames)
    held = [len(dpb) for _ in code_sequence(Echo(), Clip(), plans, lambda _: None, torch.zeros(1), dpb=dpb)]
    assert max(held) == peak
    assert not dpb


def test_dpb_drops_a_picture_before_it_is_yielded():
    plans, dpb = RandomAccess(4).plans(5), {}
    frames = code_sequence(Echo(), Clip(), plans, lambda _: None, torch.zeros(1), dpb=dpb)
    held = [sorted(dpb) for _ in frames]
    #            0    4       2          1          3
    assert held == [[0], [0, 4], [0, 2, 4], [0, 2, 4], []]


@pytest.mark.parametrize("structure", [RandomAccess(8), LowDelay(3)], ids=str)
def test_cache_makes_each_reference_once_and_without_it_once_per_use(structure):
    plans = structure.plans(17)
    uses = Counter(poc for plan in plans for poc in plan.references if poc is not None)
    assert run(plans)[0].made == Counter(uses.keys())
    assert run(plans, cache=False)[0].made == uses


def test_references_and_output_are_clamped_and_raw_picture_is_not():
    dpb = {}
    for frame in code_sequence(
        Echo(100.0), Clip(), LowDelay(None).plans(3)[:2], lambda _: None, torch.zeros(1), dpb=dpb
    ):
        last = frame
    assert last.x_hat_raw.max().item() == 1
    _, frames = run([FramePlan(3, FrameType.I)], Echo(100.0), dpb=dpb)
    assert frames[0].x_hat_raw.max().item() == 3
    assert frames[0].x_hat.max().item() == dpb[3].picture.x_hat.max().item() == 1


def test_boundary_sees_each_picture_as_references_will():
    seen = []

    def boundary(picture):
        seen.append(picture)
        return Picture(*(torch.full_like(picture.x_hat, 0.5), "cut", ()))

    dpb = {}
    _, frames = run(LowDelay(None).plans(2)[:1], Echo(gain=100.0), dpb=dpb, boundary=boundary)
    assert len(seen) == 1
    assert torch.equal(seen[0].x_hat, frames[0].x_hat)
    assert dpb[0].picture.state == "cut"
    assert frames[0].motion != ()


def test_boundary_cuts_gradients_of_later_frames_only():
    gain = torch.tensor(2.0, requires_grad=True)

    class Sum(Echo):
        def __call__(self, x, references, coder, info):
            return Picture(gain * x + sum(r[1] for r in references if r))

    def cut(picture):
        return picture._replace(x_hat=picture.x_hat.detach())

    for boundary, slopes in (({}, [1, 3]), ({"boundary": cut}, [1, 2])):
        _, frames = run([FramePlan(1, FrameType.I), FramePlan(2, FrameType.P, (1,))], Sum(), **boundary)
        gradients = [torch.autograd.grad(f.x_hat_raw.mean(), gain, retain_graph=True)[0].item() for f in frames]
        assert gradients == pytest.approx([slope / 100 for slope in slopes])


def test_seeded_dpb_serves_references_as_they_are():
    stored = Stored(Picture(torch.full((1, 3, 1, 1), 7.0), state="old"), FramePlan(4, FrameType.I))
    codec, frames = run([FramePlan(5, FrameType.P, (4,), 1, 1, release=(4,))], dpb=(dpb := {4: stored}))
    assert codec.coded[0][1] == (4,)
    assert codec.made == Counter([4])
    assert sorted(dpb) == [5]
    assert dpb[5].picture.state[0][1].max().item() == 7.0
    assert len(frames) == 1


def test_missing_reference_names_both_frames_and_what_there_is():
    with pytest.raises(ValueError, match=r"frame 2 refers to frame 1, which is not in the DPB \(it holds \[0\]\)"):
        run([FramePlan(0, FrameType.I), FramePlan(2, FrameType.P, (1,))])


def test_rate_may_depend_on_the_plan():
    codec, _ = run(LowDelay(None).plans(3), rate=lambda plan: torch.tensor([float(plan.poc)]))
    assert [info.rate.item() for info in codec.infos] == [0.0, 1.0, 2.0]
    assert {info.size for info in codec.infos} == {(1, 1)}


def test_loop_is_lazy():
    def plans():
        yield FramePlan(0, FrameType.I)
        raise RuntimeError("asked too early")

    frames = code_sequence(Echo(), Clip(), plans(), lambda _: None, torch.zeros(1))
    assert next(frames).plan.poc == 0
    with pytest.raises(RuntimeError, match="asked too early"):
        next(frames)
