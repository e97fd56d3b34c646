import numpy as np
import pytest
from PIL import Image

from lvc_zoo.data.footage import Window
from lvc_zoo.data.septuplets import TEST_LIST, list_septuplets


@pytest.fixture
def archive(tmp_path):
    """Two septuplets to train on, one to test on; a picture's red is its number."""
    for name in ("00001/0001", "00001/0002", "00002/0001"):
        folder = tmp_path / "sequences" / name
        folder.mkdir(parents=True)
        for i in range(1, 8):
            picture = np.zeros((256, 448, 3), np.uint8)
            picture[..., 0], picture[..., 1] = i, np.arange(256)[:, None]
            Image.fromarray(picture).save(folder / f"im{i}.png")
    (tmp_path / "sep_trainlist.txt").write_text("00001/0001\n00002/0001\n\n")
    (tmp_path / "sep_testlist.txt").write_text("00001/0002\n")
    return tmp_path


def test_septuplets_of_the_training_list(archive):
    one, two = list_septuplets(archive)
    assert [one.name, two.name] == ["00001/0001", "00002/0001"]
    assert (one.num_frames, one.height, one.width) == (7, 256, 448)
    frames = two.read(range(1, 7, 2), Window(5, 3, 16, 32), np.random.default_rng(0))
    assert frames.shape == (3, 16, 32, 3)
    assert frames[:, 0, 0, 0].tolist() == [2, 4, 6]
    assert frames[0, :, 0, 1].tolist() == list(range(5, 21))


def test_excluded_septuplets_are_left_out(archive):
    assert [footage.name for footage in list_septuplets(archive, ["00001/*"])] == ["00002/0001"]
    assert [footage.name for footage in list_septuplets(archive, names=TEST_LIST)] == ["00001/0002"]


def test_missing_list_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"sep_trainlist\.txt is missing; expected the septuplet archive"):
        list_septuplets(tmp_path)


def test_missing_sequences_raises(archive):
    (archive / "sequences").rename(archive / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"im1\.png is missing; expected the septuplet archive"):
        list_septuplets(archive)


def test_picture_of_another_size_raises(archive):
    Image.new("RGB", (448, 255)).save(archive / "sequences/00001/0001/im3.png")
    with pytest.raises(ValueError, match=r"im3\.png is 448x255, expected 448x256"):
        list_septuplets(archive)[0].read(range(7), Window(0, 0, 16, 16), np.random.default_rng(0))
