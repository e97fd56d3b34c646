"""Tables, BD-rates and checks of results made by hand."""

import json
import math
from dataclasses import replace

import bjontegaard
import pytest
from PIL import Image

from lvc_zoo.evaluation.conditions import SourceClip, TestCondition
from lvc_zoo.evaluation.report import (
    MEAN_CURVE,
    MEAN_OF_CLIPS,
    bd_rate_table,
    facts,
    grids,
    points_side_by_side,
    quality_checks,
    report_json,
    write_report,
)
from lvc_zoo.evaluation.results import (
    CodecResult,
    EvaluationResult,
    Failure,
    FrameResult,
    PlanesResult,
    PointResult,
    compressai_json,
    dcvc_json,
    read_result,
    write_json,
)

CLIPS = ("a", "b")
VALUES = {"ours": (0.0, 21.0, 42.0, 63.0), "x264": (20.0, 25.0, 30.0, 35.0)}
PARAMETERS = {"ours": "q", "x264": "crf"}
CURVES = {
    ("ours", "a"): ((0.05, 31.0), (0.1, 33.0), (0.2, 35.5), (0.45, 38.0)),
    ("ours", "b"): ((0.09, 30.0), (0.2, 32.0), (0.4, 34.0), (0.8, 36.0)),
    ("x264", "a"): ((0.6, 39.0), (0.25, 36.0), (0.12, 33.5), (0.05, 31.0)),
    ("x264", "b"): ((1.0, 37.0), (0.5, 35.0), (0.22, 32.5), (0.1, 30.5)),
}


def source(name):
    return SourceClip(
        name=name,
        sha256=name * 64,
        width=64,
        height=48,
        frame_rate="30000/1001",
        stored_as="yuv",
        matrix="bt601",
        full_range=False,
        bit_depth=8,
        chroma="420",
        color_assumed=True,
    )


def point(codec, clip, value, bpp, psnr):
    """Two frames, 1 dB above and below the mean; 20 bytes are a header, and the I frame takes 60 % of the others."""
    size = round(bpp * 2 * 64 * 48 / 8)
    planes = PlanesResult(psnr_y=psnr, psnr_u=40, psnr_v=41, psnr_yuv611=1, psnr_yuv411=2, psnr_yuv_mse411=3)
    frames = (
        FrameResult(poc=0, frame_type="I", layer=0, size_bytes=round(0.6 * (size - 20)), psnr_rgb_db=psnr + 1),
        FrameResult(poc=1, frame_type="P", layer=1, size_bytes=round(0.4 * (size - 20)), psnr_rgb_db=psnr - 1),
    )
    return PointResult(
        codec=codec,
        clip=clip,
        parameter=PARAMETERS[codec],
        value=value,
        size_bytes=size,
        num_frames=2,
        bpp=bpp,
        psnr_rgb_db=psnr,
        psnr_yuv=planes,
        ms_ssim=0.9,
        encode_seconds=1.0,
        decode_seconds=2.0,
        machine="a CPU, 1 threads",
        check="every frame",
        frames=frames,
    )


def result_of(curves=CURVES, clips=CLIPS):
    points = [
        point(codec, clip, value, *pair)
        for (codec, clip), curve in curves.items()
        if clip in clips
        for value, pair in zip(VALUES[codec], curve, strict=True)
    ]
    codecs = [
        CodecResult(name=name, parameter=PARAMETERS[name], values=VALUES[name], structure="s", identity="i", check="c")
        for name in VALUES
    ]
    condition = TestCondition(sequences=tuple(map(source, clips)), num_frames=2, name="two")
    return EvaluationResult(condition=condition, codecs=tuple(codecs), points=tuple(points))


def by_bjontegaard(anchor, test):
    (rate_a, psnr_a), (rate_b, psnr_b) = (zip(*sorted(curve), strict=True) for curve in (anchor, test))
    return bjontegaard.bd_rate(rate_a, psnr_a, rate_b, psnr_b, "pchip", require_matching_points=False, min_overlap=0)


def mean_of(codec):
    pairs = zip(CURVES[codec, "a"], CURVES[codec, "b"], strict=True)
    return [((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in pairs]


def row_of(result, clip, **settings):
    rows = bd_rate_table(result, **settings)
    return next(row for row in rows if (row.anchor, row.test, row.clip) == ("x264", "ours", clip))


def test_bd_rates_are_those_of_bjontegaard():
    result = result_of()
    by_clip = [by_bjontegaard(CURVES["x264", clip], CURVES["ours", clip]) for clip in CLIPS]
    for clip, expected in zip(CLIPS, by_clip, strict=True):
        assert row_of(result, clip).percent == pytest.approx(expected)
    assert row_of(result, MEAN_OF_CLIPS).percent == pytest.approx(sum(by_clip) / 2)
    assert row_of(result, MEAN_CURVE).percent == pytest.approx(by_bjontegaard(mean_of("x264"), mean_of("ours")))
    assert row_of(result, "a").shared_db == (31, 38)
    # each codec against each other one, on two clips and in two means
    assert len(bd_rate_table(result)) == 2 * 4


def test_undefined_bd_rate_is_a_dash_with_its_reason():
    """On clip b quality falls at one step: no number there, nor for the mean of clips."""
    curves = {**CURVES, ("ours", "b"): ((0.09, 30.0), (0.2, 32.0), (0.4, 31.0), (0.8, 36.0))}
    result = result_of(curves)
    assert row_of(result, "a").percent is not None
    assert row_of(result, "b").percent is None
    assert "'ours' is not monotone: 32 dB at 0.2 bpp, then 31 dB at 0.4 bpp" in row_of(result, "b").reason
    assert row_of(result, MEAN_OF_CLIPS).reason == "undefined on b"
    grid = next(grid for grid in grids(result) if grid.title.startswith("BD-rate against x264"))
    cells = dict(grid.rows)
    assert cells["b"] == cells[MEAN_OF_CLIPS] == "-"
    assert cells["a"].endswith(" %")
    rows = report_json(result)["bd_rates"]
    assert {row["clip"] for row in rows if row["percent"] is None} == {"b", MEAN_OF_CLIPS}
    assert all(row["reason"] for row in rows if row["percent"] is None)


def test_curves_that_hardly_overlap_have_no_bd_rate():
    curves = {**CURVES, ("ours", "a"): tuple((rate, psnr + 6) for rate, psnr in CURVES["ours", "a"])}
    assert "share 15% of their PSNR range" in row_of(result_of(curves), "a").reason
    assert row_of(result_of(curves), "a", min_overlap=0.1).shared_db == (37, 39)


def test_mean_curve_leaves_out_settings_that_lack_a_clip():
    result = result_of()
    missing = replace(result, points=tuple(p for p in result.points if (p.codec, p.value, p.clip) != ("ours", 21, "b")))
    assert [len(missing.mean_curve(codec)) for codec in ("ours", "x264")] == [3, 4]
    assert result.mean_curve("ours")[1] == pytest.approx((0.15, 32.5))


def test_lossless_points_are_on_no_curve():
    result = result_of()
    lossless = [replace(p, psnr_rgb_db=None) if p.value == 63 else p for p in result.points]
    assert "has 3 points" in row_of(replace(result, points=tuple(lossless)), "a").reason


def test_checks_tell_rise_span_and_worst_frame():
    curves = {**CURVES, ("ours", "b"): ((0.09, 30.0), (0.2, 32.0), (0.4, 31.0), (0.8, 36.0))}
    checks = {(check.codec, check.clip): check for check in quality_checks(result_of(curves))}
    assert {key for key, check in checks.items() if not check.rises} == {("ours", "b")}
    assert checks["ours", "a"].span_db == pytest.approx(7)
    assert checks["x264", "b"].span_db == pytest.approx(6.5)
    assert checks["ours", "a"].largest_drop_db == pytest.approx(1)
    assert checks["ours", "a"].drop_poc == 1


def test_result_survives_its_file(tmp_path):
    failure = Failure(codec="ours", clip="a", parameter="q", value=5, reason="none")
    result = replace(result_of(), failures=(failure,))
    write_json(tmp_path / "result.json", report_json(result))
    assert read_result(tmp_path / "result.json") == result


def test_data_without_a_condition_are_refused(tmp_path):
    (tmp_path / "dcvc.json").write_text(json.dumps(dcvc_json(result_of(), "ours")))
    with pytest.raises(ValueError, match="has no entry 'condition'"):
        read_result(tmp_path / "dcvc.json")


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("format", 0, "is of format 0, expected 1"),
        ("points", [{}], "lacks the key"),
        ("condition", {"sequences": [], "manifest_sha256": ""}, "expected at least one"),
    ],
)
def test_damaged_results_are_refused(tmp_path, entry, value, message):
    (tmp_path / "result.json").write_text(json.dumps({**result_of().to_json(), entry: value}))
    with pytest.raises(ValueError, match=message):
        read_result(tmp_path / "result.json")


def test_altered_clip_list_is_refused(tmp_path):
    data = result_of().to_json()
    data["condition"]["sequences"][0]["sha256"] = "0"
    (tmp_path / "result.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="the file was altered"):
        read_result(tmp_path / "result.json")


def test_results_of_one_condition_are_compared():
    merged = result_of().with_codecs_of(result_of(), "before")
    rows = {(row.anchor, row.test): row.percent for row in bd_rate_table(merged) if row.clip == "a"}
    assert rows["before/ours", "ours"] == pytest.approx(0, abs=1e-9)
    assert rows["before/x264", "ours"] == rows["x264", "ours"]


def test_results_of_different_conditions_are_refused():
    other = result_of()
    other = replace(other, condition=replace(other.condition, intra_period=16))
    with pytest.raises(ValueError, match="intra_period differs, 32 and 16"):
        result_of().with_codecs_of(other, "before")
    with pytest.raises(ValueError, match="'b' is in only one of them"):
        result_of().with_codecs_of(result_of(clips=("a",)), "before")


def test_dcvc_layout_counts_types_by_packets_and_all_by_the_file():
    entry = dcvc_json(result_of(), "ours")["two"]["a"]["001"]
    size = round(0.1 * 2 * 64 * 48 / 8)
    assert entry["ave_all_frame_bpp"] == 0.1
    assert entry["ave_all_frame_psnr"] == 33.0
    assert (entry["i_frame_num"], entry["p_frame_num"]) == (1, 1)
    assert entry["ave_i_frame_bpp"] == pytest.approx(8 * round(0.6 * (size - 20)) / (64 * 48))
    assert (entry["ave_i_frame_psnr"], entry["ave_p_frame_psnr"]) == (34.0, 32.0)
    assert (entry["ave_all_frame_psnr_y"], entry["ave_all_frame_psnr_u"]) == (33.0, 40)
    assert entry["frame_type"] == [0, 1]
    # rates are numbered from the lowest, whatever the setting's direction
    rates = dcvc_json(result_of(), "x264")["two"]["a"]
    assert [rates[f"{index:03d}"]["ave_all_frame_bpp"] for index in range(4)] == [0.05, 0.12, 0.25, 0.6]


def test_compressai_layout_has_kilobits_a_second():
    result = result_of()
    data = compressai_json(result, result.codecs[0])
    sizes = [round(bpp * 2 * 64 * 48 / 8) for bpp in (0.05, 0.09)]
    assert data["results"]["q"] == [0, 21, 42, 63]
    assert data["results"]["bitrate"][0] == pytest.approx(sum(sizes) / 2 * 8 / 2 * 30000 / 1001 / 1000)
    assert data["results"]["psnr-rgb"] == [30.5, 32.5, 34.75, 37.0]


def test_points_side_by_side_are_of_similar_rate():
    chosen = list(points_side_by_side(result_of(), "a"))
    assert [(p.codec, p.setting) for p in chosen] == [("ours", "q 42"), ("x264", "crf 25")]


def test_report_writes_tables_and_pictures(tmp_path):
    failure = Failure(codec="ours", clip="a", parameter="q", value=5, reason="it broke")
    paths = write_report(replace(result_of(), failures=(failure,)), tmp_path / "new" / "folder")
    assert {path.name for path in paths if path.parent.name == "folder"} == {
        "result.json",
        "report.md",
        "rd.png",
        "frames.png",
    }
    text = (tmp_path / "new/folder/report.md").read_text()
    assert "| ours | q 21 | 77 | 0.1000 | 33.00 | 1.00 | 0.9000 | 1.0 | 2.0 |" in text
    assert "FAILED ours, a, q 5: it broke" in text
    for name in ("rd", "frames"):
        with Image.open(tmp_path / f"new/folder/{name}.png") as picture:
            assert min(picture.size) > 300


def test_facts_tell_which_codec_ran_where():
    made = result_of()
    points = [replace(p, machine="far away") if p.codec == "x264" else p for p in made.points]
    told = [fact for fact in facts(replace(made, points=tuple(points))) if fact.startswith("Seconds")]
    assert told == [
        f"Seconds of the whole clip, ours: {points[0].machine}",
        "Seconds of the whole clip, x264: far away",
    ]


def test_report_of_failures_alone_has_no_pictures(tmp_path):
    result = replace(result_of(), points=())
    assert not any(path.suffix == ".png" for path in write_report(result, tmp_path))
    assert all(math.isfinite(row.percent or 0) and row.reason for row in bd_rate_table(result))
