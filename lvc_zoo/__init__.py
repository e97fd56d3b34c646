"""A PyTorch model zoo for learned video compression: real bitstreams, trained weights, one model code path.

Example:
    >>> from lvc_zoo import create_model, list_models
    >>> "biecvc-tiny" in list_models()
    True
"""

from .codec.observe import observe
from .codec.video import CodecOutput, EncodedVideo, VideoCodec
from .errors import BitstreamError, DesyncError, WeightsError
from .gop import FrameType, GopStructure, LowDelay, RandomAccess
from .models import DCVCDC, DCVCTCM, LSTEC, BiECVC, DCVCDCIntra, DCVCTCMIntra, create_model, list_models

__version__ = "0.1.0"

__all__ = [
    "BiECVC",
    "BitstreamError",
    "CodecOutput",
    "DCVCDC",
    "DCVCDCIntra",
    "DCVCTCM",
    "DCVCTCMIntra",
    "DesyncError",
    "EncodedVideo",
    "FrameType",
    "GopStructure",
    "LSTEC",
    "LowDelay",
    "RandomAccess",
    "VideoCodec",
    "WeightsError",
    "create_model",
    "list_models",
    "observe",
]
