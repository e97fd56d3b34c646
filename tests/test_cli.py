"""The command, in process; what it prints and what it leaves on disk."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lvc_zoo import VideoCodec, create_model
from lvc_zoo.cli import main
from lvc_zoo.color import ColorSpec
from lvc_zoo.data import open_video
from lvc_zoo.metrics import psnr_db

SHARED = Path(__file__).resolve().parents[1] / "../shared"


@pytest.fixture(scope="module")
def stream(tiny_weights, png_clip, tmp_path_factory):
    """The pictures as an .lvc file: I0 I4 B2 B1 B3."""
    path = tmp_path_factory.mktemp("stream") / "clip.lvc"
    assert main(["encode", str(png_clip), str(path), "--model", str(tiny_weights), "--intra-period", "4"]) == 0
    return path


def run(capsys, *arguments):
    """Exit code, standard output and standard error."""
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_encode_prints_size_bpp_and_where_it_ran(capsys, tmp_path, tiny_weights, png_clip):
    path = tmp_path / "a.lvc"
    code, out, err = run(capsys, "encode", png_clip, path, "--model", tiny_weights, "--frames", 2, "--q", 0)
    size = path.stat().st_size
    assert (code, err) == (0, "")
    assert f"2 frames of 50x34, {size:,} bytes, {8 * size / (2 * 50 * 34):.4f} bpp" in out
    assert "frames/s on CPU" in out
    assert f"torch {torch.__version__}, eager float32" in out


def test_decode_png_folder_equals_python(capsys, tmp_path, stream, tiny_weights):
    code, out, _ = run(capsys, "decode", stream, tmp_path / "frames", "--model", tiny_weights)
    shown = torch.stack(list(open_video(tmp_path / "frames")))
    expected = torch.stack(list(VideoCodec.from_pretrained(tiny_weights).decode(stream)))
    assert code == 0
    assert "5 frames of 50x34" in out
    torch.testing.assert_close(shown, expected, rtol=0, atol=0.5 / 255 + 1e-6)


def test_decode_range_writes_those_frames(capsys, tmp_path, stream, tiny_weights):
    code, *_ = run(capsys, "decode", stream, tmp_path / "two.y4m", "--frames", "2:4", "--model", tiny_weights)
    frames = torch.stack(list(open_video(tmp_path / "two.y4m", color=ColorSpec("bt601"))))
    expected = torch.stack(list(VideoCodec.from_pretrained(tiny_weights).decode(stream)))[2:4]
    assert code == 0
    assert len(frames) == 2
    assert float(psnr_db(frames, expected).min()) > 40
    assert sorted(p.name for p in tmp_path.iterdir()) == ["two.y4m"]


def test_decode_damaged_file_keeps_frames_before(capsys, tmp_path, stream, tiny_weights):
    data = bytearray(stream.read_bytes())
    data[-60] ^= 1  # in the last packet, frame 3
    (tmp_path / "bad.lvc").write_bytes(data)
    for name, partial in (("out.y4m", "out.partial.y4m"), ("pictures", "pictures.partial")):
        code, _, err = run(capsys, "decode", tmp_path / "bad.lvc", tmp_path / name, "--model", tiny_weights)
        assert code == 1
        assert err.startswith("lvc-zoo: error: the packet of frame 3 fails its CRC")
        assert f"3 frames before it are in {tmp_path / partial}" in err
        assert not (tmp_path / name).exists()
    assert len(list(open_video(tmp_path / "out.partial.y4m", color=ColorSpec("bt601")))) == 3
    assert len(list((tmp_path / "pictures.partial").iterdir())) == 3


def test_decode_without_model_names_weights_needed(capsys, tmp_path, stream, tiny_weights):
    code, _, err = run(capsys, "decode", stream, tmp_path / "out.y4m")
    assert code == 1
    assert VideoCodec.from_pretrained(tiny_weights).weights_digest().hex() in err


def test_decode_other_weights_names_both_digests(capsys, tmp_path, stream, tiny_weights):
    torch.manual_seed(1)
    other = create_model("biecvc-tiny")
    other.save_pretrained(tmp_path / "other")
    code, _, err = run(capsys, "decode", stream, tmp_path / "out.y4m", "--model", tmp_path / "other")
    assert code == 1
    for folder in (tiny_weights, tmp_path / "other"):
        assert VideoCodec.from_pretrained(folder).weights_digest().hex() in err


def test_info_json_sums_to_file_size(capsys, stream, tiny_weights):
    code, out, _ = run(capsys, "info", stream, "--json", "--bits", "--model", tiny_weights)
    data = json.loads(out)
    assert code == 0
    assert data["header"]["structure"] == {"type": "random_access", "intra_period": 4}
    assert [(f["poc"], f["type"], f["layer"]) for f in data["frames"]] == [
        (0, "I", 0),
        (4, "I", 0),
        (2, "B", 1),
        (1, "B", 2),
        (3, "B", 2),
    ]
    packets = sum(f["payload_bytes"] + f["framing_bytes"] for f in data["frames"])
    assert 0 < data["size_bytes"] - packets - data["header"]["header_bytes"] <= 40
    for frame in data["frames"]:
        assert set(frame["bits"]) == ({"frame", "hyper"} if frame["type"] == "I" else {"motion", "frame", "hyper"})
        assert 0 <= frame["payload_bytes"] - sum(frame["bits"].values()) / 8 <= 16


def test_info_shows_a_table(capsys, stream):
    code, out, _ = run(capsys, "info", stream)
    assert code == 0
    assert "biecvc-tiny" in out
    assert "payload_bytes" in out


def test_info_truncated_file_shows_what_is_there(capsys, tmp_path, stream):
    (tmp_path / "cut.lvc").write_bytes(stream.read_bytes()[:-200])
    code, out, err = run(capsys, "info", tmp_path / "cut.lvc", "--json")
    assert code == 1
    assert 1 <= len(json.loads(out)["frames"]) < 5
    assert "truncated" in err


def test_list_pattern_gives_matching_models(capsys):
    code, out, _ = run(capsys, "list", "biecvc*", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert list(rows) == ["biecvc", "biecvc-tiny"]
    assert rows["biecvc"]["parameters"] == pytest.approx(63.9e6, rel=0.005)
    assert rows["biecvc"]["weights"] == "none"


def test_bench_complexity_json_follows_overrides(capsys):
    arguments = ["bench", "biecvc-tiny", "--complexity", "--json", "--size", "128x64"]
    code, out, _ = run(capsys, *arguments, "--set", "gating=false", "--set", "intra.latent=64")
    data = json.loads(out)
    model = create_model("biecvc-tiny", gating=False, **{"intra.latent": 64})
    assert code == 0
    assert data["complexity"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert set(data["complexity"]["kmac_per_pixel"]["inter"]) == {"cached", "uncached", "uncached, read only"}
    assert "stages" not in data


def test_bench_times_say_where_they_were_measured(capsys, tiny_weights):
    arguments = ["bench", tiny_weights, "--stages", "--coder", "--size", "64x64", "--frames", 3]
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert f"torch {torch.__version__}" in out
    assert "Seconds a frame" in out
    assert "flush bytes" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["list", "lstm*"], "no model matches 'lstm*'"),
        (["encode", "absent.mp4", "out.lvc"], "absent.mp4 does not exist"),
        (["bench", "biecvc-tny"], "unknown model 'biecvc-tny'; the nearest are 'biecvc-tiny'"),
        (["bench", "biecvc", "--complexity", "--set", "gatin=false"], "unknown key 'gatin'; the nearest is 'gating'"),
        (["bench", "biecvc", "--set", "gating"], "expected KEY=VALUE"),
        (["bench", "biecvc", "--size", "1280"], "expected WIDTHxHEIGHT"),
        (["decode", "absent.lvc", "out.y4m"], "No such file"),
        (["convert", "biecvc", "absent.pth", "out"], "no official checkpoints of 'biecvc' are known"),
        (["encod", "a", "b"], "invalid choice"),
        (["encode", "a", "b", "--qp", "3"], "unrecognized arguments: --qp"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_wrong_use_is_one_line(capsys, monkeypatch, tmp_path, arguments, expected):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert err.startswith("lvc-zoo: error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert list(tmp_path.iterdir()) == []


def test_unknown_weights_name_is_one_line(capsys, tmp_path, png_clip):
    code, _, err = run(capsys, "encode", png_clip, tmp_path / "out.lvc", "--model", "biecvc-tny")
    assert code == 2
    assert "no bundled weights are named 'biecvc-tny'" in err


def test_foreign_file_is_refused(capsys, tmp_path):
    (tmp_path / "foreign.lvc").write_bytes(b"RIFF and so on")
    for command in (["info"], ["decode"]):
        extra = [tmp_path / "out.y4m"] if command == ["decode"] else []
        code, _, err = run(capsys, *command, tmp_path / "foreign.lvc", *extra)
        assert code == 1
        assert "not an .lvc stream" in err


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["info", str(tmp_path / "absent.lvc"), "--debug"])


def test_encode_raw_video_takes_size_and_color(capsys, tmp_path, tiny_weights):
    (tmp_path / "raw.yuv").write_bytes(bytes(range(256)) * 6)
    color = ["--color-matrix", "bt709", "--color-range", "full", "--frame-rate", "30000/1001"]
    source = [tmp_path / "raw.yuv", tmp_path / "raw.lvc", "--size", "32x16"]
    code, _, err = run(capsys, "encode", *source, "--model", tiny_weights, "--pixel-format", "yuv420p", *color)
    assert (code, err) == (0, "")
    _, out, _ = run(capsys, "info", tmp_path / "raw.lvc", "--json")
    header = json.loads(out)["header"]
    assert (header["matrix"], header["full_range"], header["color_assumed"]) == ("bt709", True, False)
    assert (header["frame_rate"], header["chroma"]) == ("30000/1001", "420")


def test_encode_untagged_video_warns_in_one_line(capsys, tmp_path, tiny_weights):
    (tmp_path / "raw.yuv").write_bytes(bytes(768))
    source = [tmp_path / "raw.yuv", tmp_path / "raw.lvc", "--size", "32x16"]
    code, _, err = run(capsys, "encode", *source, "--model", tiny_weights)
    assert code == 0
    assert err.startswith("lvc-zoo: warning: ")
    assert err.count("\n") == 1
    code, _, err = run(capsys, "encode", *source, "--model", tiny_weights, "--color-matrix", "bt601")
    assert (code, err) == (0, "")


def test_start_does_not_import_what_few_subcommands_need():
    code = "import sys; from lvc_zoo.cli import main; main(['list', '--json']); print(*sys.modules, file=sys.stderr)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in process.stderr.split()}
    assert "jsonargparse" in loaded
    assert not loaded & {"lightning", "matplotlib", "torchmetrics", "av", "huggingface_hub"}


# ---- convert


@pytest.fixture(scope="module")
def official_checkpoint(tmp_path_factory):
    """Stand-in weights under official names, wrapped as training leaves them."""
    if not SHARED.exists():
        pytest.skip("the shared folder is not beside this checkout")
    spec = importlib.util.spec_from_file_location("formula", SHARED / "parity/formula.py")
    formula = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formula)
    shapes = json.loads((SHARED / "reference/checkpoints/dcvc_dc_intra_keys.json").read_text())
    state = formula.formula_state_dict(shapes)
    path = tmp_path_factory.mktemp("checkpoint") / "intra.pth"
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    return path


def test_convert_wrapped_checkpoint_codes_a_clip(capsys, tmp_path, official_checkpoint, png_clip):
    code, out, _ = run(capsys, "convert", "dcvc-dc-intra", official_checkpoint, tmp_path / "weights")
    assert code == 0
    assert "30,998,187 parameters" in out
    codec = VideoCodec.from_pretrained(tmp_path / "weights")
    official = torch.load(official_checkpoint, weights_only=True)["state_dict"]
    assert torch.equal(codec.intra.encoder_gain.basic, official["module.q_basic_enc"])
    frames = torch.stack(list(open_video(png_clip, frames=1)))
    data = codec.compress(frames)
    assert codec.decompress(data).shape == frames.shape
    shutil.rmtree(tmp_path / "weights")


def test_convert_incomplete_checkpoint_lists_names(capsys, tmp_path, official_checkpoint):
    state = torch.load(official_checkpoint, weights_only=True)["state_dict"]
    del state["module.q_basic_enc"]
    state["module.q_scale_dec"] = torch.ones(64, 1, 1, 1)
    torch.save({"net": state}, tmp_path / "cut.pth")
    code, _, err = run(capsys, "convert", "dcvc-dc-intra", tmp_path / "cut.pth", tmp_path / "weights")
    assert code == 2
    assert "missing: encoder_gain.basic;" in err
    assert "of another shape: decoder_gain.scale (64, 1, 1, 1) instead of (4, 1, 1, 1)" in err
    torch.save({"module.backbone.weight": torch.ones(1), "module.head.weight": torch.ones(1)}, tmp_path / "other.pth")
    code, _, err = run(capsys, "convert", "dcvc-dc-intra", tmp_path / "other.pth", tmp_path / "weights")
    assert code == 2
    assert "'backbone.weight', 'head.weight'" in err
    assert not (tmp_path / "weights").exists()


class _Trap:
    def __reduce__(self):
        return print, ("this must not run",)


def test_convert_never_runs_code_of_a_pickle(capsys, tmp_path):
    torch.save({"state_dict": _Trap()}, tmp_path / "trap.pth")
    code, out, err = run(capsys, "convert", "dcvc-dc-intra", tmp_path / "trap.pth", tmp_path / "weights")
    assert (code, out) == (2, "")
    assert "does not load as a file of tensors alone" in err
