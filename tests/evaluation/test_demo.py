"""The demo on a clip of five small pictures, and the search for x264's nearest size."""

import shutil

import pytest
import torch

from lvc_zoo import BitstreamError, VideoCodec
from lvc_zoo.cli import main
from lvc_zoo.codec.reader import TensorReader
from lvc_zoo.data import open_video
from lvc_zoo.evaluation import demo
from lvc_zoo.evaluation.demo import DemoRequest, decode_in_fresh_process, nearest_x264, run_demo, shown_poc
from lvc_zoo.evaluation.external import ExternalCodec
from lvc_zoo.metrics import psnr_db
from tests.miniature import moving_clip
from tests.recurrent import recurrent


@pytest.fixture(scope="module")
def report(tiny_weights, png_clip, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    return run_demo(DemoRequest(clip=png_clip, q=21, model=str(tiny_weights), out=out))


def test_demo_counts_every_byte_of_the_files(report):
    out = report.picture.parent
    ours, x264 = (result.rows() for result in report.results)
    assert ours[-1].size_bytes == (out / "clip.lvc").stat().st_size
    assert x264[-1].size_bytes == (out / "x264.h264").stat().st_size
    for *types, total in (ours, x264):
        assert sum(row.frames for row in types) == total.frames == 5
        assert 0 <= total.size_bytes - sum(row.size_bytes for row in types) < 120
        assert total.bpp == pytest.approx(8 * total.size_bytes / (5 * 50 * 34))
    assert [row.name for row in ours] == ["I", "B, layer 1", "B, layer 2", "B, layer 3", "whole file"]


def test_demo_quality_is_that_of_the_stream(report, tiny_weights, png_clip):
    frames = torch.stack(list(open_video(png_clip)))
    stream = report.picture.parent / "clip.lvc"
    decoded = torch.stack(list(VideoCodec.from_pretrained(tiny_weights).decode(stream)))
    # the demo reads 8-bit video in 4:4:4, so it differs by the rounding alone
    assert report.results[0].rows()[-1].psnr_db == pytest.approx(float(psnr_db(decoded, frames).mean()), abs=0.1)


def test_demo_small_frames_have_no_ms_ssim(report):
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as capture:
        for item in report.tables():
            console.print(item)
    text = capture.get()
    assert text.count("n/a") == sum(len(result.rows()) for result in report.results)
    assert "5 frames of 50x34" in text


def test_demo_writes_a_picture(report):
    from PIL import Image

    with Image.open(report.picture) as picture:
        assert min(picture.size) > 300


def test_demo_odd_sides_and_one_frame(tiny_weights, png_clip, tmp_path):
    from PIL import Image

    (tmp_path / "odd").mkdir()
    with Image.open(png_clip / "0.png") as picture:
        picture.crop((0, 0, 33, 17)).save(tmp_path / "odd/0.png")
    report = run_demo(DemoRequest(clip=tmp_path / "odd", model=str(tiny_weights), out=tmp_path / "out"))
    assert "1 frames of 32x16" in report.what
    assert [row.name for row in report.results[0].rows()] == ["I", "whole file"]


def test_demo_of_low_delay_compares_with_low_delay(png_clip, tmp_path, monkeypatch):
    def decode_in_this_process(stream, output, model):
        assert main(["decode", str(stream), str(output), "--model", model]) == 0

    # a fresh process does not know the codec of the tests
    monkeypatch.setattr(demo, "decode_in_fresh_process", decode_in_this_process)
    recurrent().save_pretrained(tmp_path / "weights")
    report = run_demo(DemoRequest(clip=png_clip, q=50, model=str(tmp_path / "weights"), out=tmp_path / "out"))
    for result in report.results:
        assert "".join(r.frame_type for r in result.records) == "IPPPP"
        assert [row.name for row in result.rows()] == ["I", "P", "whole file"]
    assert report.results[1].name.startswith("x264 medium, no B frames, one I frame in 32, CRF ")


def test_nearest_x264_is_nearest_of_all_steps(tmp_path):
    reader, codec = TensorReader(moving_clip(3, 32, 48)), ExternalCodec("x264")
    sizes = {crf: codec.encode(reader, tmp_path / "a", crf=crf).size_bytes for crf in (x / 2 for x in range(40, 80))}
    target = sizes[28.5] + 1
    crf, video = nearest_x264(codec, reader, target, tmp_path / "b")
    assert abs(video.size_bytes - target) <= min(abs(size - target) for size in sizes.values())
    assert (
        (tmp_path / "b").stat().st_size == video.size_bytes == codec.encode(reader, tmp_path / "c", crf=crf).size_bytes
    )


def test_shown_poc_is_a_b_frame_near_the_middle(report):
    records = report.results[0].records
    assert shown_poc(records) == 2
    assert shown_poc(records[:1]) == 0


def test_fresh_process_reports_damage(report, tiny_weights, tmp_path):
    shutil.copy(report.picture.parent / "clip.lvc", tmp_path / "cut.lvc")
    with (tmp_path / "cut.lvc").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(BitstreamError, match="did not decode"):
        decode_in_fresh_process(tmp_path / "cut.lvc", tmp_path / "out.y4m", str(tiny_weights))
