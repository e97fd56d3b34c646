"""Coding structures against hand-made plans of the reference data and a simulated decoded picture buffer."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from lvc_zoo import gop
from lvc_zoo.gop import FramePlan, FrameType, GopStructure, LowDelay, RandomAccess

PLANS_FILE = Path(__file__).resolve().parents[1] / "../shared/reference/coding_structure.json"
STRUCTURES = [RandomAccess(2**k) for k in range(7)] + [LowDelay(n) for n in (1, 2, 3, 12, 32)] + [LowDelay()]
LENGTHS = [*range(1, 71), 96, 97, 128, 129, 130]


def case(value: object) -> str:
    return repr(value)


def stream(structure: GopStructure, chunks: list[int]) -> list[list[FramePlan]]:
    """The answers to a caller that receives ``chunks`` frames at a time and holds one back until it knows more."""
    answers: list[list[FramePlan]] = []
    first = received = 0
    for index, chunk in enumerate(chunks):
        received += chunk
        final = index == len(chunks) - 1
        in_hand = received if final else received - 1
        while plans := structure.gop(first, in_hand - first, final):
            answers.append(plans)
            first += len(plans)
    return answers


def random_chunks(num_frames: int, rng: random.Random) -> list[int]:
    chunks = []
    while left := num_frames - sum(chunks):
        chunks.append(min(left, rng.choice([1, 2, 3, 7, 32, 40])))
    if rng.random() < 0.5:
        chunks.append(0)  # the end of the source is noticed late; the frame held back is coded then
    return chunks


def dpb_entries(plans: list[FramePlan]) -> list[int]:
    """The number of pictures held after each frame; fails if a reference is missing or a release names no picture."""
    held: set[int] = set()
    entries = []
    for plan in plans:
        missing = {poc for poc in plan.references if poc is not None} - held
        assert not missing, f"frame {plan.poc} refers to {missing}"
        held.add(plan.poc)
        assert held >= set(plan.release)
        held -= set(plan.release)
        entries.append(len(held))
    return entries


@pytest.mark.skipif(not PLANS_FILE.exists(), reason="the shared reference data is not beside this checkout")
def test_random_access_for_each_reference_plan_is_equal():
    reference = json.loads(PLANS_FILE.read_text())["plans"]
    assert len(reference) >= 17
    for name, rows in reference.items():
        num_frames, intra_period = (int(part.lstrip("NIP")) for part in name.split("_"))
        plans = RandomAccess(intra_period).plans(num_frames)
        got = [[plan.poc, plan.frame_type.name, plan.layer, *(plan.references or (None,) * 4)] for plan in plans]
        assert got == rows, name


@pytest.mark.parametrize("structure", STRUCTURES, ids=case)
def test_gop_streamed_in_any_chunks_equals_plans(structure):
    rng = random.Random(0)
    for num_frames in LENGTHS:
        whole = structure.plans(num_frames)
        for _ in range(4):
            answers = stream(structure, random_chunks(num_frames, rng))
            assert list(chain(*answers)) == whole, num_frames


@pytest.mark.parametrize("structure", STRUCTURES, ids=case)
def test_plans_of_any_length_cover_each_frame_once_and_empty_the_dpb(structure):
    for num_frames in LENGTHS:
        plans = structure.plans(num_frames)
        assert sorted(plan.poc for plan in plans) == list(range(num_frames))
        assert sorted(poc for plan in plans for poc in plan.release) == list(range(num_frames))
        assert dpb_entries(plans)[-1] == 0
        assert not any(plan.refresh for plan in plans)


@pytest.mark.parametrize("structure", STRUCTURES, ids=case)
def test_release_of_each_picture_is_right_after_its_last_use(structure):
    for num_frames in LENGTHS:
        plans = structure.plans(num_frames)
        for poc in range(num_frames):
            last_user = [plan for plan in plans if poc == plan.poc or poc in plan.references][-1]
            assert poc in last_user.release


@pytest.mark.parametrize("structure", STRUCTURES, ids=case)
def test_position_counts_from_the_last_i_frame_in_display_order(structure):
    for num_frames in LENGTHS:
        opening = 0
        for plan in sorted(structure.plans(num_frames), key=lambda plan: plan.poc):
            opening = plan.poc if plan.frame_type is FrameType.I else opening
            assert plan.position == plan.poc - opening
            assert (plan.layer == 0) == (plan.frame_type is FrameType.I)


@pytest.mark.parametrize(
    ("num_frames", "intra_period", "peak"),
    [(33, 32, 6), (96, 32, 6), (97, 32, 6), (64, 64, 6), (65, 64, 7), (192, 64, 7), (193, 64, 7)],
)
def test_random_access_peak_dpb_entries_equal_the_published_count(num_frames, intra_period, peak):
    assert max(dpb_entries(RandomAccess(intra_period).plans(num_frames))) == peak


def test_random_access_releases_of_one_gop_equal_the_worked_table():
    plans = RandomAccess(32).plans(33)
    got = {poc: plan.poc for plan in plans for poc in plan.release if poc % 2 == 0 and poc != 32}
    assert got == {
        2: 3, 4: 7, 6: 7, 8: 13, 10: 11, 12: 15, 14: 15, 18: 19, 16: 25,
        20: 23, 22: 23, 24: 29, 26: 27, 28: 31, 30: 31, 0: 17,
    }  # fmt: skip


def test_random_access_answers_are_the_first_frame_then_whole_gops_then_the_tail():
    answers = stream(RandomAccess(8), [22])
    assert [[plan.poc for plan in answer] for answer in answers] == [
        [0],
        [8, 4, 2, 1, 3, 6, 5, 7],
        [16, 12, 10, 9, 11, 14, 13, 15],
        [20, 18, 17, 19, 21],
    ]


def test_random_access_with_too_few_frames_answers_nothing():
    structure = RandomAccess(8)
    assert structure.gop(0, 0, False) == structure.gop(0, 0, True) == []
    assert structure.gop(1, 7, False) == structure.gop(9, 0, True) == []


def test_random_access_closing_i_frame_stays_only_while_frames_follow():
    structure = RandomAccess(8)
    followed, last = structure.gop(1, 8, False), structure.gop(1, 8, True)
    assert 8 not in [poc for plan in followed for poc in plan.release]
    assert 8 in last[-1].release
    assert structure.gop(1, 9, True) == followed


def test_low_delay_answers_stop_before_an_i_frame():
    answers = stream(LowDelay(5), [3, 9])
    assert [[plan.poc for plan in answer] for answer in answers] == [[0, 1], [2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


def test_low_delay_holds_one_picture_at_most():
    assert max(dpb_entries(LowDelay(4).plans(11))) == 1
    assert max(dpb_entries(LowDelay(1).plans(11))) == 0


def test_low_delay_p_frame_refers_to_the_frame_before():
    plan = LowDelay(4).plans(7)[6]
    assert plan == FramePlan(6, FrameType.P, (5,), layer=1, position=2, release=(5, 6))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomAccess(12), "12 is not a power of two; the nearest are 8 and 16"),
        (lambda: RandomAccess(0), "intra_period is 0, expected an integer >= 1"),
        (lambda: RandomAccess(True), "intra_period is True"),
        (lambda: RandomAccess(8.0), r"intra_period is 8\.0"),
        (lambda: LowDelay(0), "expected an integer >= 1 or None"),
        (lambda: RandomAccess(8).gop(4, 8, False), "first is 4, expected 0 or one more than a multiple of 8"),
        (lambda: RandomAccess(8).gop(-1, 8, False), "first is -1"),
        (lambda: LowDelay(8).gop(0, -1, False), "available is -1"),
        (lambda: LowDelay(8).plans(0), "num_frames is 0, expected an integer >= 1"),
        (lambda: GopStructure.from_config({}), "type None is unknown"),
        (lambda: GopStructure.from_config({"type": "random-access"}), "did you mean 'random_access'"),
        (lambda: GopStructure.from_config({"type": "low_delay"}), r"expected \['type', 'intra_period'\]"),
        (
            lambda: GopStructure.from_config({"type": "low_delay", "intra_period": 8, "intraperiod": 8}),
            "did you mean 'intra_period'",
        ),
        (lambda: GopStructure.from_config({"type": "random_access", "intra_period": "32"}), "intra_period is '32'"),
    ],
)
def test_structure_with_a_bad_argument_raises(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("structure", STRUCTURES, ids=case)
def test_config_through_json_gives_an_equal_structure(structure):
    copy = GopStructure.from_config(json.loads(json.dumps(structure.to_config())))
    assert copy == structure
    assert hash(copy) == hash(structure)
    assert eval(repr(structure), vars(gop)) == structure


def test_reorder_is_true_only_with_b_frames():
    for structure in STRUCTURES:
        pocs = [plan.poc for plan in structure.plans(70)]
        assert structure.reorder == (pocs != sorted(pocs)), structure


def test_module_imported_alone_loads_the_standard_library_only():
    code = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('gop', sys.argv[1])\n"
        "sys.modules['gop'] = module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "names = {name.partition('.')[0] for name in sys.modules} - {'gop', '__main__'}\n"
        "print(sorted(names - set(sys.stdlib_module_names)))\n"
    )
    command = [sys.executable, "-I", "-S", "-c", code, gop.__file__]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
