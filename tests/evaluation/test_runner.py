"""Codecs over clips: what is measured, what is kept, what is not coded twice."""

import json
import math
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from lvc_zoo.cli import main
from lvc_zoo.config import to_dict
from lvc_zoo.data import open_video
from lvc_zoo.entropy.tables import Tables
from lvc_zoo.evaluation.conditions import TestCondition
from lvc_zoo.evaluation.contenders import Contender, learned_contender, make_contender
from lvc_zoo.evaluation.external import ExternalCodec
from lvc_zoo.evaluation.runner import RunSettings, evaluate
from lvc_zoo.evaluation.sources import find_clips
from lvc_zoo.gop import LowDelay, RandomAccess
from tests.evaluation.test_conditions import SPEC, luma, write_clip
from tests.miniature import miniature
from tests.recurrent import recurrent

FRAMES = 5


class Broken:
    """A codec that must not be asked."""

    def encode(self, reader, path, q=0, structure=None):
        raise AssertionError("coded again")


class Counting:
    """A codec of ours that counts how often it encodes."""

    def __init__(self):
        self.codec, self.calls = recurrent(), 0

    def encode(self, *arguments, **settings):
        self.calls += 1
        return self.codec.encode(*arguments, **settings)

    def decode(self, path):
        return self.codec.decode(path)


def condition_for(clips, **changes):
    settings = {"num_frames": FRAMES, "structure": "low_delay", "intra_period": 4, "q": (0, 63), "crf": (20, 35)}
    return TestCondition(sequences=tuple(clip.source for clip in clips), **{**settings, **changes})


def timeless(point):
    return replace(point, encode_seconds=0, decode_seconds=0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "a.y4m", num_frames=FRAMES)
    write_clip(folder / "b.y4m", num_frames=FRAMES, seed=1)
    return find_clips([folder], num_frames=FRAMES, color=SPEC)


@pytest.fixture(scope="module")
def condition(clips):
    return condition_for(clips)


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return recurrent()


@pytest.fixture(scope="module")
def contenders(codec, condition):
    ours = learned_contender("ours", codec, condition)
    intra = learned_contender("ours:intra", codec, condition, intra_alone=True)
    return [ours, intra, make_contender("x264:ultrafast", condition)]


@pytest.fixture(scope="module")
def run(clips, condition, contenders, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, evaluate(contenders, clips, condition, out, RunSettings(keep=True))


def streams(out, point):
    codec = point.codec.replace(":", "_")
    structure = "low_delay-1" if point.codec == "ours:intra" else "low_delay-4"
    (path,) = (out / "streams" / codec / structure / point.clip).glob(f"{point.parameter}{point.value:g}-*.bin")
    return path


def test_evaluate_measures_every_codec_on_every_clip_at_every_setting(run):
    _, result = run
    assert not result.failures
    assert len(result.points) == 2 * 3 * 2
    assert [point.setting for point in result.points_of("x264:ultrafast", "b")] == ["crf 20", "crf 35"]
    assert [point.setting for point in result.points_of("ours", "a")] == ["q 0", "q 63"]


def test_rate_is_that_of_the_files_on_disk(run):
    out, result = run
    for point in result.points:
        size = streams(out, point).stat().st_size
        assert point.size_bytes == size
        assert point.bpp == pytest.approx(8 * size / (FRAMES * 48 * 64))
        assert 0 <= size - sum(frame.size_bytes for frame in point.frames) < 150


def test_ideal_rate_is_what_the_decoder_finds_and_below_that_of_the_file(run, codec):
    out, result = run
    (point,) = [point for point in result.points_of("ours", "a") if point.value == 63]
    bits = sum(sum(parts.values()) for _, parts in codec.decode_bits(streams(out, point)))
    assert point.ideal_bpp == pytest.approx(bits / (FRAMES * 48 * 64))
    assert point.bpp - 0.2 < point.ideal_bpp < point.bpp
    assert {point.ideal_bpp for point in result.points if point.codec == "x264:ultrafast"} == {None}


def test_psnr_is_that_of_the_decoded_files_by_hand(run, clips, codec):
    out, result = run
    decoders = {"ours": codec, "ours:intra": codec, "x264:ultrafast": ExternalCodec("x264")}
    for point in result.points:
        clip = next(clip for clip in clips if clip.source.name == point.clip)
        x = np.stack([frame.numpy() for frame in open_video(clip.path, color=SPEC)]).astype(np.float64)
        x_hat = np.stack([frame.numpy() for frame in decoders[point.codec].decode(streams(out, point))])
        psnrs = -10 * np.log10(((x - x_hat) ** 2).mean(axis=(1, 2, 3)))
        assert [frame.psnr_rgb_db for frame in point.frames] == pytest.approx(psnrs, abs=1e-4)
        assert point.psnr_rgb_db == pytest.approx(psnrs.mean(), abs=1e-4)


def test_luma_psnr_of_x264_is_that_of_its_own_planes(run, clips):
    """Not of RGB made from them: FFmpeg's codes against the source's, read by hand."""
    import av

    out, result = run
    (point,) = [p for p in result.points_of("x264:ultrafast", "a") if p.value == 35]
    with av.open(str(streams(out, point)), format="h264") as container:
        decoded = np.stack([frame.to_ndarray()[:48] for frame in container.decode(video=0)]).astype(float)
    error = ((decoded - luma(clips[0].path)) ** 2).mean(axis=(1, 2))
    assert point.psnr_yuv.psnr_y == pytest.approx((10 * np.log10(255**2 / error)).mean(), abs=1e-4)
    y, u, v = (getattr(point.psnr_yuv, f"psnr_{plane}") for plane in "yuv")
    assert point.psnr_yuv.psnr_yuv611 == pytest.approx((6 * y + u + v) / 8)


def test_frame_types_follow_the_structure(run):
    _, result = run
    types = {
        point.codec: "".join(frame.frame_type for frame in point.frames) for point in result.points if point.clip == "a"
    }
    assert types == {"ours": "IPPPI", "ours:intra": "IIIII", "x264:ultrafast": "IPPPI"}


def test_streams_are_kept_only_on_request(clips, tmp_path):
    condition = condition_for(clips[:1], crf=(40,))
    evaluate(["x264:ultrafast"], clips[:1], condition, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["points"]


def test_points_are_written_as_they_are_done_and_found_again(run, clips, condition, contenders):
    out, result = run
    seen = []
    again = [replace(contender, codec=Broken()) for contender in contenders]
    assert evaluate(again, clips, condition, out, note=seen.append) == result
    assert len(seen) == len(result.points)


def test_interrupted_run_keeps_what_it_had(clips, condition, contenders, tmp_path):
    def stop(outcome):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(contenders[:1], clips, condition, tmp_path, note=stop)
    assert len(list(tmp_path.rglob("*.json"))) == 1


def test_only_what_changed_is_coded_again(run, clips, condition, contenders, tmp_path):
    """Other weights: all points of that codec; another measure: all; one more clip or rate point: that alone."""
    counting = Counting()
    ours = replace(contenders[0], codec=counting)
    evaluate([ours], clips[:1], condition_for(clips[:1]), tmp_path)
    assert counting.calls == 2
    evaluate([ours], clips, condition, tmp_path)
    assert counting.calls == 4
    evaluate([replace(ours, values=(0.0, 63.0, 21.0))], clips, condition, tmp_path)
    assert counting.calls == 6
    evaluate([replace(ours, identity="other weights")], clips[:1], condition_for(clips[:1]), tmp_path)
    assert counting.calls == 8
    evaluate([ours], clips[:1], condition_for(clips[:1], rate="payload"), tmp_path)
    assert counting.calls == 10


def test_points_serve_every_condition_that_asks_for_the_same(run, clips, condition, contenders):
    """P frames and I frames alone are coded alike where B frames would be allowed."""
    out, result = run
    free = replace(condition, structure="random_access")
    again = [replace(contender, codec=Broken()) for contender in contenders[:2]]
    found = evaluate(again, clips, free, out)
    assert set(found.points) == {point for point in result.points if point.codec != "x264:ultrafast"}
    assert found.condition != result.condition
    x264 = replace(make_contender("x264:ultrafast", free), values=(35.0,))
    evaluate([x264], clips[:1], replace(free, sequences=free.sequences[:1]), out)
    structures = {path.name for path in (out / "points/x264_ultrafast").iterdir()}
    assert structures == {"low_delay-4", "random_access-4"}


@pytest.mark.parametrize("damage", ["{", "[]", '{"key": {}}', "cut", "point"])
def test_damaged_point_is_measured_again(clips, condition, contenders, tmp_path, damage):
    one = replace(contenders[2], values=(35.0,))
    before = evaluate([one], clips[:1], condition_for(clips[:1]), tmp_path)
    (path,) = tmp_path.rglob("crf35-*.json")
    text = path.read_text()
    if damage == "cut":
        damage = text[: len(text) // 2]
    if damage == "point":
        damage = text.replace('"size_bytes"', '"size"')
    path.write_text(damage)
    if damage == '{"key": {}}':  # of another condition
        after = evaluate([one], clips[:1], condition_for(clips[:1]), tmp_path)
    else:
        with pytest.warns(UserWarning, match=r"crf35-\w+\.json is damaged and is measured again"):
            after = evaluate([one], clips[:1], condition_for(clips[:1]), tmp_path)
    assert list(map(timeless, after.points)) == list(map(timeless, before.points))
    assert json.loads(path.read_text())["point"]["size_bytes"] == before.points[0].size_bytes


def test_points_of_other_frames_or_code_stay_beside_each_other(clips, contenders, tmp_path, monkeypatch):
    one = replace(contenders[2], values=(35.0,))
    for num_frames in (3, 2, 3):
        condition = condition_for(clips[:1], num_frames=num_frames)
        fewer = replace(clips[0], num_frames=num_frames)
        evaluate([one], [fewer], condition, tmp_path)
    assert len([*tmp_path.rglob("crf35-*.json")]) == 2
    monkeypatch.setattr("lvc_zoo.evaluation.runner.code_digest", lambda floors: "another")
    evaluate([one], [fewer], condition, tmp_path)
    assert len([*tmp_path.rglob("crf35-*.json")]) == 3


def test_keep_codes_again_where_the_file_is_gone(clips, contenders, tmp_path):
    one, condition = replace(contenders[2], values=(35.0,)), condition_for(clips[:1])
    result = evaluate([one], clips[:1], condition, tmp_path)
    evaluate([one], clips[:1], condition, tmp_path, RunSettings(keep=True))
    (stream,) = (tmp_path / "streams").rglob("crf35-*.bin")
    assert stream.stat().st_size == result.points[0].size_bytes


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), av.error.OverflowError(75, "too large")])
def test_failing_library_does_not_stop_the_others(clips, contenders, tmp_path, error):
    class Failing:
        def encode(self, *args, **kwargs):
            raise error

    failing = replace(contenders[0], name="failing", codec=Failing(), values=(0.0,))
    result = evaluate([failing, replace(contenders[2], values=(35.0,))], clips[:1], condition_for(clips[:1]), tmp_path)
    assert [failure.codec for failure in result.failures] == ["failing"]
    assert [point.codec for point in result.points] == ["x264:ultrafast"]


def test_folder_with_an_equals_sign_is_no_label(tmp_path, clips):
    folder = tmp_path / "lr=1e-3"
    recurrent().save_pretrained(folder)
    contender = make_contender(str(folder), condition_for(clips))
    assert contender.name == str(folder)
    assert make_contender(f"mine={folder}", condition_for(clips)).name == "mine"


def test_tuned_encoder_has_an_identity_of_its_own(clips):
    plain, tuned = (make_contender(name, condition_for(clips)) for name in ("x264", "x264:medium:psnr"))
    assert plain.identity != tuned.identity
    assert tuned.codec == ExternalCodec("x264", "medium", "psnr")


def test_failing_point_does_not_stop_the_others(clips, condition, contenders, tmp_path):
    class Losing(Counting):
        def decode(self, path):
            return iter(list(self.codec.decode(path))[:-1])

    losing = replace(contenders[0], name="losing", codec=Losing(), values=(0.0,))
    result = evaluate([losing, replace(contenders[2], values=(35.0,))], clips[:1], condition_for(clips[:1]), tmp_path)
    (failure,) = result.failures
    assert (failure.codec, failure.clip, failure.value) == ("losing", "a", 0)
    assert "frame 4 decoded to nothing" in failure.reason
    assert [point.codec for point in result.points] == ["x264:ultrafast"]


def test_lossless_frames_have_no_psnr_and_json_stays_strict(clips, tmp_path):
    condition = condition_for(clips[:1], crf=(0,))
    result = evaluate(["x264:ultrafast"], clips[:1], condition, tmp_path)
    (point,) = result.points
    assert point.psnr_rgb_db is None
    assert point.psnr_yuv.psnr_y is None
    (path,) = tmp_path.rglob("crf0-*.json")
    assert "Infinity" not in path.read_text()


def test_ms_ssim_is_measured_on_request(tmp_path):
    write_clip(tmp_path / "a.y4m", num_frames=1, height=176, width=176)
    clips = find_clips([tmp_path], num_frames=1, color=SPEC)
    condition = condition_for(clips, num_frames=1, ms_ssim=True, crf=(40,))
    (point,) = evaluate(["x264:ultrafast"], clips, condition, tmp_path / "out").points
    assert 0.5 < point.ms_ssim < 1


def test_jpeg_codes_still_pictures_in_rgb(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
    Image.fromarray(x).save(tmp_path / "a.png")
    clips = find_clips([tmp_path], num_frames=1)
    condition = condition_for(clips, num_frames=1, intra_period=1, jpeg_quality=(20, 90))
    result = evaluate(["jpeg"], clips, condition, tmp_path / "out", RunSettings(keep=True))
    for point, quality in zip(result.points, (20, 90), strict=True):
        Image.fromarray(x).save(tmp_path / "by.jpg", quality=quality, subsampling=2, optimize=True)
        assert point.size_bytes == (tmp_path / "by.jpg").stat().st_size
        with Image.open(tmp_path / "by.jpg") as picture:
            error = ((np.asarray(picture, float) - x) ** 2).mean()
        assert point.psnr_rgb_db == pytest.approx(10 * math.log10(255**2 / error), abs=1e-4)
        assert point.psnr_yuv is None


def test_jpeg_refuses_videos(clips, tmp_path):
    (failure, *_) = evaluate(["jpeg"], clips, condition_for(clips), tmp_path).failures
    assert "the clip has 5 frames, JPEG codes one" in failure.reason


def test_codec_takes_the_freest_structure_that_it_has(clips):
    low_delay, tree = condition_for(clips), miniature()
    random_access = condition_for(clips, structure="random_access")
    assert learned_contender("b", tree, random_access).structure == RandomAccess(4)
    assert learned_contender("b", tree, random_access, intra_alone=True).structure == LowDelay(1)
    assert learned_contender("p", recurrent(), random_access).structure == LowDelay(4)
    assert learned_contender("b", tree, condition_for(clips, intra_period=1)).structure == LowDelay(1)
    assert make_contender("x265", random_access).structure == RandomAccess(4)
    with pytest.raises(ValueError, match="miniature codes B, I frames, which the condition's structure 'low_delay'"):
        learned_contender("b", tree, low_delay)


def test_identity_of_an_intra_codec_is_that_of_its_weights_alone(clips):
    """Training the inter network further leaves points of the intra network as they are."""
    condition = condition_for(clips)
    codec = recurrent()
    before = [learned_contender("a", codec, condition, intra_alone=alone).identity for alone in (False, True)]
    with torch.no_grad():
        next(codec.inter.parameters()).add_(1)
    tables = next(part for part in codec.inter.modules() if isinstance(part, Tables))
    next(tables.buffers()).add_(1)
    after = [learned_contender("a", codec, condition, intra_alone=alone).identity for alone in (False, True)]
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_identity_knows_the_config_and_the_code(clips, monkeypatch):
    def identity():
        return learned_contender("a", codec, condition_for(clips)).identity

    codec = recurrent()
    before = identity()
    codec.config = replace(codec.config, hidden=5)
    assert identity() != before
    before = identity()
    monkeypatch.setattr("lvc_zoo.evaluation.contenders.code_digest", lambda floors: "another")
    assert identity() != before


def test_codec_of_one_rate_is_coded_at_it(clips):
    codec = recurrent()
    codec.lambdas = (1.0,)
    assert learned_contender("one", codec, condition_for(clips)).values == (32,)


def test_labels_name_codecs(clips, condition, tmp_path):
    assert make_contender("best=x264:slow", condition).codec == ExternalCodec("x264", "slow")
    assert make_contender("best=x264:slow", condition).name == "best"
    with pytest.raises(ValueError, match="no name twice; give labels"):
        evaluate(["x264", "x264"], clips, condition, tmp_path)


def test_clips_of_another_condition_raise(clips, condition, tmp_path):
    with pytest.raises(ValueError, match="not those of the test condition"):
        evaluate(["x264"], clips[:1], condition, tmp_path)


@pytest.mark.parametrize("settings", [{"jobs": 0}, {"threads": 0}])
def test_run_settings_refuse_nothing_to_run_with(settings):
    with pytest.raises(ValueError, match="expected at least 1 each"):
        RunSettings(**settings)


@pytest.mark.slow
def test_processes_side_by_side_measure_the_same(run, clips, condition, contenders, tmp_path):
    _, result = run
    parallel = evaluate(contenders, clips, condition, tmp_path, RunSettings(jobs=2, threads=1))
    for one, other in zip(result.points, parallel.points, strict=True):
        assert to_dict(replace(timeless(one), machine="")) == to_dict(replace(timeless(other), machine=""))


def test_command_evaluates_from_a_recipe(clips, tmp_path, capsys):
    """The bundled intra codec and x264 on one small frame, as a recipe and flags say."""
    recipe = "recipes/evaluate/clips_random-access.yaml"
    flags = ["--frames", "1", "--intra-period", "1", "--max-size", "32x32", "--q", "21", "--crf", "30"]
    flags += ["--color-matrix", "bt601", "--color-range", "limited", "--codecs", "biecvc-tiny:intra", "x264"]
    arguments = ["evaluate", "--config", recipe, "--clips", str(clips[0].path), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--work", str(tmp_path / "work"), *flags]) == 0
    assert len([*(tmp_path / "work/points").rglob("*.json")]) == 2
    shown = capsys.readouterr()
    assert "biecvc-tiny:intra, a, q 21: " in shown.err
    assert "low_delay" not in shown.out
    data = json.loads((tmp_path / "out/result.json").read_text())
    assert data["condition"]["name"] == "clips_random-access"
    assert (data["condition"]["num_frames"], data["condition"]["max_size"]) == (1, [32, 32])
    assert [point["codec"] for point in data["points"]] == ["biecvc-tiny:intra", "x264"]
    assert all(row["percent"] is None and "has 1 points" in row["reason"] for row in data["bd_rates"][:1])


def test_command_compares_with_an_earlier_result_of_its_condition(clips, tmp_path, capsys):
    flags = ["evaluate", "--clips", str(clips[0].path), "--codecs", "x264:ultrafast", "--crf", "20", "30", "40", "50"]
    flags += ["--frames", "2", "--color-matrix", "bt601", "--color-range", "limited", "--out"]
    assert main([*flags, str(tmp_path / "first")]) == 0
    against = ["--against", str(tmp_path / "first/result.json"), "--work", str(tmp_path / "first")]
    assert main([*flags, str(tmp_path / "second"), *against]) == 0
    data = json.loads((tmp_path / "second/result.json").read_text())
    rates = {(row["anchor"], row["test"]): row["percent"] for row in data["bd_rates"] if row["clip"] == "a"}
    assert rates["first/x264:ultrafast", "x264:ultrafast"] == pytest.approx(0, abs=1e-9)
    capsys.readouterr()
    assert main([*flags, str(tmp_path / "third"), *against, "--intra-period", "16"]) == 2
    assert "different test conditions: intra_period differs, 16 and 32" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no clips are named"),
        (["--clips", "nowhere"], "nowhere does not exist"),
        (["--clips", ".", "--color-range", "full"], "give both or neither"),
        (["--clips", ".", "--max-size", "9"], "expected WIDTHxHEIGHT"),
        (["--kodecs", "x264"], "kodecs"),
        (
            ["--clips", "STILL", "--frames", "1", "--codecs", "biecvc-tiny", "--device", "abc"],
            "device 'abc' is not usable",
        ),
    ],
)
def test_command_refuses_in_one_line(flags, message, tmp_path, capsys):
    Image.new("RGB", (32, 16)).save(tmp_path / "still.png")
    assert main(["evaluate", *(str(tmp_path) if flag == "STILL" else flag for flag in flags)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["clips_random-access", "clips_low-delay", "stills_intra", "clips_intra"])
def test_recipe_is_read_by_the_command(name):
    from jsonargparse import ArgumentParser

    from lvc_zoo.evaluation.command import add_arguments

    parser = ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    options = parser.parse_args(["--config", f"recipes/evaluate/{name}.yaml"])
    assert options.name == name
    assert options.out == f"evaluation/{name}"


def test_contender_passes_whole_rate_points():
    seen = {}

    class Recording:
        def encode(self, reader, path, structure, **setting):
            seen.update(setting)

    contender = Contender(
        name="c", codec=Recording(), parameter="q", values=(21.0,), structure=LowDelay(1), identity=""
    )
    contender.encode(None, None, 21.0)
    assert seen == {"q": 21}
    assert type(seen["q"]) is int


def test_point_has_a_setting_in_words(run):
    _, result = run
    assert result.points[0].setting == "q 0"
