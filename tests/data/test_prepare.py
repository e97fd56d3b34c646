import hashlib
import json

import av
import numpy as np
import pytest
import torch

from lvc_zoo.cli import main
from lvc_zoo.data.datamodules import ClipFolders, Vimeo90K
from lvc_zoo.data.datasets import ClipPhase
from lvc_zoo.data.prepare import check_folder, compare_manifest, optimize, prepare
from tests.data.test_cache import write_picture, write_video, write_y4m
from tests.data.test_septuplets import archive  # noqa: F401
from tests.miniature import moving_clip

UVG = ("Beauty", "Bosphorus", "HoneyBee", "Jockey", "ReadySetGo", "ShakeNDry", "YachtRide")


@pytest.fixture
def videos(tmp_path):
    """Two videos, one with a cut, beside a file of another kind."""
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "one.mkv", moving_clip(5, 32, 48))
    write_video(folder / "two.mkv", torch.cat([moving_clip(4, 34, 40, seed=1), 0.3 * moving_clip(6, 34, 40, seed=2)]))
    (folder / "notes.txt").touch()
    return folder


def write_noise(path, num_frames, options):
    random = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(num_frames):
            array = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def uvg(tmp_path):
    folder = tmp_path / "downloads"
    (folder / "deep").mkdir(parents=True)
    for name in UVG:
        (folder / "deep" / f"{name}_1920x1080_120fps_420_8bit_YUV.yuv").write_bytes(name.encode())
    return folder


def test_folder_gets_checksums_and_keeps_them(videos):
    assert prepare(str(videos)) == []
    manifest = json.loads((videos / "manifest.json").read_text())
    digest = hashlib.sha256((videos / "one.mkv").read_bytes()).hexdigest()
    assert sorted(manifest["files"]) == ["one.mkv", "two.mkv"]
    assert manifest["files"]["one.mkv"] == {"size_bytes": (videos / "one.mkv").stat().st_size, "sha256": digest}
    assert prepare(str(videos)) == []


def test_changed_files_are_told_apart_from_missing_ones(videos):
    write_picture(videos / "still.png")
    prepare(str(videos))
    with (videos / "one.mkv").open("r+b") as file:
        file.seek(100)
        file.write(bytes([file.read(1)[0] ^ 1]))
    (videos / "two.mkv").unlink()
    (videos / "still.png").write_bytes(b"short")
    problems = compare_manifest(videos)
    assert [problem.split(" ")[0] for problem in problems] == ["one.mkv", "still.png", "two.mkv"]
    assert "another SHA-256" in problems[0]
    assert "5 bytes, the manifest says" in problems[1]
    assert "missing" in problems[2]


def test_named_set_is_gathered_under_one_folder(uvg, tmp_path):
    out = tmp_path / "uvg"
    assert prepare("uvg", str(uvg), str(out)) == []
    assert len(list(out.glob("*.yuv"))) == 7
    assert (out / "Beauty_1920x1080_120fps_420_8bit_YUV.yuv").read_bytes() == b"Beauty"
    assert prepare("uvg", str(uvg), str(out)) == []


def test_named_set_with_missing_or_wrong_sequences_raises(uvg):
    path = uvg / "deep" / "Jockey_1920x1080_120fps_420_8bit_YUV.yuv"
    path.rename(path.with_name("Jockey_3840x2160_120fps_420_8bit_YUV.yuv"))
    with pytest.raises(ValueError, match="is 3840x2160, expected 1920x1080 for uvg"):
        prepare("uvg", str(uvg))
    path.with_name("Jockey_3840x2160_120fps_420_8bit_YUV.yuv").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks Jockey_\* of uvg; it comes from the Ultra Video Group"):
        prepare("uvg", str(uvg))


def test_named_set_takes_its_own_size_of_several_and_refuses_a_choice(uvg):
    other = uvg / "Jockey_3840x2160.yuv"
    other.write_bytes(b"large")
    assert prepare("uvg", str(uvg)) == []
    other.rename(uvg / "Jockey_1920x1080_copy.yuv")
    with pytest.raises(ValueError, match=r"Jockey_\* matches .*expected one file; move the others"):
        prepare("uvg", str(uvg))


def test_named_set_without_a_place_or_unknown_raises(tmp_path):
    with pytest.raises(ValueError, match=r"add --source FOLDER. They come from the Media Communications Lab"):
        prepare("mcl-jcv")
    with pytest.raises(ValueError, match="neither a folder nor a data set that is known; the nearest is 'uvg'"):
        prepare("uvgg")
    with pytest.raises(FileNotFoundError, match="is not a folder; hevc-b comes from the JVET"):
        prepare("hevc-b", str(tmp_path / "none"))


def test_vimeo_archive_is_complete_or_named_incomplete(archive, tmp_path):  # noqa: F811
    assert prepare("vimeo90k", str(archive), str(tmp_path / "linked")) == []
    assert (tmp_path / "linked" / "sep_trainlist.txt").exists()
    (archive / "sequences/00002/0001/im4.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 pictures are missing, the first is .*im4\.png; expected the septup"
    ):
        prepare("vimeo90k", str(archive))


def test_check_counts_and_finds_cuts(videos):
    report = check_folder(str(videos))
    assert (report.sources, report.frames, report.cuts, report.problems) == (2, 15, {"two.mkv": [4]}, [])
    assert dict(report.sizes) == {"48x32": 1, "40x34": 1}
    assert next(report.lines()) == "2 sources, 15 frames, 1 cuts"


def test_check_command_names_every_problem_and_exits_with_1(videos, capsys):
    assert main(["data", "prepare", str(videos)]) == 0
    assert main(["data", "check", str(videos)]) == 0
    write_y4m(videos / "cut_short.y4m")
    damaged = (videos / "one.mkv").read_bytes()
    (videos / "one.mkv").write_bytes(b"no video" + damaged[8:])
    capsys.readouterr()
    assert main(["data", "check", str(videos)]) == 1
    out = capsys.readouterr().out
    assert "2 sources, 12 frames, 1 cuts" in out
    assert "problem: one.mkv: " in out
    assert "problem: one.mkv has another SHA-256" in out


@pytest.mark.filterwarnings("ignore:1 videos of")
@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".y4m"])
def test_check_names_videos_that_were_cut_off(tmp_path, suffix):
    """As by a download that broke off; the whole file is none."""
    folder = tmp_path / "videos"
    folder.mkdir()
    path = folder / f"one{suffix}"
    if suffix == ".y4m":
        write_y4m(path, num_frames=6)
    else:
        options = {"movflags": "faststart"} if suffix == ".mp4" else {}
        write_noise(path, num_frames=40, options=options)
    assert check_folder(str(folder)).problems == []
    path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
    (problem,) = check_folder(str(folder)).problems
    assert problem.startswith(path.name)


def test_check_against_something_else_than_a_manifest_raises(videos):
    (videos / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a manifest; remove it and run `lvc-zoo data prepare`"):
        check_folder(str(videos))


def test_files_that_the_manifest_lacks_are_problems(videos):
    assert prepare(str(videos)) == []
    write_video(videos / "later.mkv", moving_clip(2, 32, 48))
    said = "later.mkv is not in the manifest; remove manifest.json to write a new one"
    assert prepare(str(videos)) == [said]
    assert check_folder(str(videos)).problems == [said]


def test_shards_of_either_list_serve_only_what_they_are_for(archive, tmp_path):  # noqa: F811
    """Otherwise validation on shards would see training clips."""
    training, held_out = str(tmp_path / "training"), str(tmp_path / "held_out")
    assert main(["data", "optimize", str(archive), training]) == 0
    assert main(["data", "optimize", str(archive), held_out, "--held-out"]) == 0
    datamodule = Vimeo90K([training], cache=str(tmp_path / "cache"), val_folders=[held_out])
    assert [source.name for source in datamodule.footage(training)] == ["00001/0001", "00002/0001"]
    assert [source.name for source in datamodule.held_out(held_out)] == ["00001/0002"]
    assert check_folder(held_out).problems == []
    with pytest.raises(ValueError, match=r"shards of the data set's training list.* OUT --held-out`"):
        datamodule.held_out(training)
    with pytest.raises(ValueError, match=r"shards of the data set's test list.* OUT`"):
        datamodule.footage(held_out)


def test_only_vimeo_has_a_test_list_to_optimize(videos, tmp_path):
    with pytest.raises(ValueError, match="has no test list; leave --held-out away"):
        optimize(str(videos), str(tmp_path / "shards"), is_held_out=True)


def test_one_recipe_reads_a_folder_and_its_shards(videos, tmp_path, capsys):
    shards = tmp_path / "shards"
    assert main(["data", "optimize", str(videos), str(shards), "--encoding", "png"]) == 0
    assert "1 shards" in capsys.readouterr().out
    assert check_folder(str(shards)).cuts == {"two.mkv": [4]}
    batches = []
    for folder in (videos, shards):
        datamodule = ClipFolders([str(folder)], cache=str(tmp_path / "cache"), crop=32, batch_size=2)
        datamodule.follow([ClipPhase(3, 3, (1, 2))])
        batches.append([batch.frames for batch in datamodule.train_dataloader()])
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_damaged_shard_is_found(videos, tmp_path):
    shards = tmp_path / "shards"
    assert optimize(str(videos), str(shards), shard_bytes=20_000) > 1
    path = shards / "chunk-0-0.bin"
    codes = np.fromfile(path, np.uint8)
    codes[-1] ^= 1
    codes.tofile(path)
    assert check_folder(str(shards)).problems == ["chunk-0-0.bin has another SHA-256 than the manifest says"]


def test_shards_of_the_archive_hold_its_training_list(archive, tmp_path):  # noqa: F811
    optimize(str(archive), str(tmp_path / "shards"), "png")
    report = check_folder(str(tmp_path / "shards"))
    assert (report.sources, report.frames, dict(report.sizes)) == (2, 14, {"448x256": 2})


def test_optimize_into_a_taken_folder_or_of_a_damaged_source_leaves_nothing(videos, tmp_path):
    with pytest.raises(ValueError, match="exists and is not empty; give a new folder"):
        optimize(str(videos), str(videos))
    (videos / "one.mkv").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"one\.mkv cannot be read as a video"):
        optimize(str(videos), str(tmp_path / "shards"))
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]
