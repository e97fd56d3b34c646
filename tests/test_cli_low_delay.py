"""The command with a low-delay codec: intra periods, a pipe as input, seeking."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lvc_zoo.cli import main
from lvc_zoo.codec.container import StreamReader, coded_frames
from lvc_zoo.color import ColorSpec
from lvc_zoo.data import open_video, open_writer
from lvc_zoo.errors import BitstreamError
from lvc_zoo.gop import LowDelay
from tests.miniature import moving_clip
from tests.recurrent import Recurrent, recurrent

ROOT = Path(__file__).resolve().parents[1]
COLOR = ColorSpec("bt601")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "recurrent"
    recurrent().save_pretrained(folder)
    return folder


def run(capsys, *arguments):
    """Exit code, standard output and standard error."""
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("options", "structure"),
    [([], LowDelay(32)), (["--intra-period", "3"], LowDelay(3)), (["--intra-period", "none"], LowDelay(None))],
    ids=["default", "3", "none"],
)
def test_encode_takes_intra_period_and_decodes_and_seeks(capsys, tmp_path, weights, png_clip, options, structure):
    path = tmp_path / "a.lvc"
    code, out, err = run(capsys, "encode", png_clip, path, "--model", weights, "--q", 40, *options)
    assert (code, err) == (0, "")
    assert "5 frames of 50x34" in out
    clip = torch.stack(list(open_video(png_clip)))
    codec = Recurrent.from_pretrained(weights)
    expected = codec.decompress(codec.compress(clip, 40, structure))
    for frames in (range(5), range(3, 5)):
        output = tmp_path / f"from {frames.start}"
        extra = ["--frames", f"{frames.start}:{frames.stop}"] if frames.start else []
        assert run(capsys, "decode", path, output, "--model", weights, *extra)[0] == 0
        shown = torch.stack(list(open_video(output)))
        torch.testing.assert_close(shown, expected[frames.start :], rtol=0, atol=0.5 / 255 + 1e-6)
    _, out, _ = run(capsys, "info", path, "--json")
    info = json.loads(out)
    assert info["header"]["structure"] == structure.to_config()
    assert [f["type"] for f in info["frames"]] == [plan.frame_type.name for plan in structure.plans(5)]


@pytest.mark.parametrize(
    ("period", "message"),
    [
        ("often", "intra period is 'often', expected a number of frames, or none for a single I frame"),
        ("-4", "expected"),
        ("0", "intra_period is 0, expected an integer >= 1 or None"),
    ],
)
def test_wrong_intra_period_is_one_line(capsys, tmp_path, weights, png_clip, period, message):
    option = f"--intra-period={period}"
    code, _, err = run(capsys, "encode", png_clip, tmp_path / "a.lvc", "--model", weights, option)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_no_intra_period_for_random_access_is_one_line(capsys, tmp_path, tiny_weights, png_clip):
    options = ["--model", tiny_weights, "--intra-period", "none"]
    code, _, err = run(capsys, "encode", png_clip, tmp_path / "a.lvc", *options)
    assert code == 2
    assert err.startswith(
        "lvc-zoo: error: intra period is none, but biecvc-tiny codes between two I frames; give a power"
    )
    assert err.count("\n") == 1


def test_encode_of_a_pipe_writes_frames_while_it_is_open(tmp_path, weights):
    """Frame k goes into the pipe only after frame k - 2 is in the file."""
    clip, source, path = moving_clip(6, 32, 48), tmp_path / "a.y4m", tmp_path / "a.lvc"
    with open_writer(source, width=48, height=32, frame_rate=25, color=COLOR) as writer:
        for frame in clip:
            writer.write(frame)
    head, *frames = source.read_bytes().split(b"FRAME")
    command = [sys.executable, "-m", "tests.recurrent", "encode", "-", path, "--model", weights, "--q", "40"]
    color = ["--color-matrix", "bt601", "--color-range", "limited"]
    process = subprocess.Popen([*map(str, command), *color], stdin=subprocess.PIPE, cwd=ROOT)
    assert process.stdin is not None
    for poc, frame in enumerate(frames):
        if poc >= 2:
            wait_for(lambda poc=poc: frames_in(path.with_name("a.lvc.part")) == poc - 1)
        process.stdin.write((b"" if poc else head) + b"FRAME" + frame)
        process.stdin.flush()
    process.stdin.close()
    assert process.wait(60) == 0
    codec, stored = Recurrent.from_pretrained(weights), torch.stack(list(open_video(source, color=COLOR)))
    assert torch.equal(torch.stack(list(codec.decode(path))), codec.decompress(codec.compress(stored, 40)))


def frames_in(path):
    """Number of whole frames in a file that is being written."""
    count = 0
    try:
        with path.open("rb") as file:
            for count, _ in enumerate(coded_frames(StreamReader(file)), start=1):  # noqa: B007
                pass
    except (FileNotFoundError, BitstreamError):
        pass
    return count


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the encoder waits for more of its source than it may"
        time.sleep(0.02)
