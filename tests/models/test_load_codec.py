"""From the header of a stream to the codec that decodes it."""

import pytest
import torch

from lvc_zoo import BitstreamError, DesyncError, VideoCodec, WeightsError, create_model, hub
from lvc_zoo.codec.reader import TensorReader
from lvc_zoo.models import load_codec_for, read_header
from tests.miniature import moving_clip
from tests.test_hub import server  # noqa: F401


def encode(codec, path):
    codec.encode(TensorReader(moving_clip(1, 16, 16)), path)
    return path


def test_bundled_weights_are_found_by_the_header(monkeypatch, tmp_path, tiny_weights):
    path = encode(VideoCodec.from_pretrained(tiny_weights), tmp_path / "a.lvc")
    (tmp_path / "bundled").mkdir()
    monkeypatch.setattr(hub, "BUNDLED", tmp_path / "bundled")
    with pytest.raises(BitstreamError, match="neither bundled nor from the Hub"):
        load_codec_for(path)
    (tmp_path / "bundled/biecvc-tiny").symlink_to(tiny_weights)
    codec = load_codec_for(path)
    assert (codec.variant, codec.weights_digest()) == ("biecvc-tiny", read_header(path).weights_digest)
    assert not codec.training


def test_hub_weights_are_found_by_the_header(server, tmp_path, tiny_weights):  # noqa: F811
    torch.manual_seed(2)
    create_model("biecvc-tiny").save_pretrained(tmp_path / "weights")
    server.add("someone/tiny", {file.name: file.read_bytes() for file in (tmp_path / "weights").iterdir()})
    codec = VideoCodec.from_pretrained("someone/tiny")
    path = encode(codec, tmp_path / "a.lvc")
    for found in (load_codec_for(path), load_codec_for(path, local_files_only=True)):
        assert found.origin == codec.origin
        assert found.weights_digest() == codec.weights_digest()
    with pytest.raises(DesyncError, match=codec.weights_digest().hex()):
        load_codec_for(path, tiny_weights)


def test_origin_in_a_stream_never_names_a_folder(tmp_path, tiny_weights):
    codec = VideoCodec.from_pretrained(tiny_weights)
    codec.origin = str(tiny_weights)
    path = encode(codec, tmp_path / "a.lvc")
    with pytest.raises(WeightsError):
        load_codec_for(path, local_files_only=True)
