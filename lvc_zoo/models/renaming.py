"""Names of official checkpoints to ours: rules of a model, then those of the blocks that the DCVC family shares."""

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from ..errors import WeightsError

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
"""A regular expression of official names, and what stands for it in ours."""

UNET = r"(refine\.0|reconstruction\.feature\.\d)"

BLOCK_NAMES: tuple[Rule, ...] = (
    (r"\bblock\.0\.conv1\.0\.", "spatial.conv1."),
    (r"\bblock\.0\.depth_conv\.", "spatial.depthwise."),
    (r"\bblock\.0\.conv2\.", "spatial.conv2."),
    (r"\bblock\.0\.adaptor\.", "spatial.skip."),
    (r"\bblock\.1\.conv(_out|\.2)\.", "ffn.conv2."),
    (r"\bblock\.1\.conv(\.0)?\.", "ffn.conv1."),
    (r"\bdownsample\.", "skip."),
    (r"\bsubpel_conv\.0\.", "up.0."),
    (r"\bupsample\.0\.", "skip.0."),
    (UNET + r"\.conv(\d)\.", r"\1.down\2."),
    (UNET + r"\.up(\d)\.", lambda m: f"{m[1]}.up{int(m[2]) - 1}."),
    (r"\bcontext_refine\.", "middle."),
    (r"\bup_conv(\d)\.", lambda m: f"merge{int(m[1]) - 1}."),
)
"""What follows inside a block, once its own place is renamed; each rule applies anywhere in a name."""

CONTEXT_NAMES: tuple[Rule, ...] = (
    (
        r"optic_flow\.moduleBasic\.(\d)\.conv(\d)\.",
        lambda m: f"motion.estimator.levels.{m[1]}.{2 * (int(m[2]) - 1)}.",
    ),
    (r"feature_extractor\.conv(\d)\.", lambda m: f"miner.pyramid.scale{int(m[1]) - 1}.0."),
    (r"feature_extractor\.res_block(\d)\.", lambda m: f"miner.pyramid.scale{int(m[1]) - 1}.1."),
    (r"context_fusion_net\.conv(\d)_(up|out)\.", r"miner.fusion.\2\1.0."),
    (r"context_fusion_net\.res_block(\d)_(up|out)\.", r"miner.fusion.\2\1.1."),
)
"""Flow network and context mining, alike in the video codecs."""


def owner(prefix: str | None) -> str:
    """Where a latent's parts are: in the motion codec if their official name says so, else in the network itself."""
    return "motion." if prefix else ""


def rename(
    checkpoint: Mapping[str, Tensor], rules: Sequence[Rule], codec: str, blocks: Sequence[Rule] = BLOCK_NAMES
) -> dict[str, Tensor]:
    """Rename an official checkpoint.

    Args:
        checkpoint: official names to tensors.
        rules: of the model; the first whose expression starts a name renames that start.
        codec: what the checkpoint should be of, for the message.
        blocks: applied to the result, one after the other.

    Returns:
        Our names to the same tensors (no tables: `models.checkpoint.convert_checkpoint` has them built).

    Raises:
        WeightsError: for names that the rules do not know.

    Example:
        >>> import torch
        >>> list(rename({"enc_0.downsample.bias": torch.zeros(1)}, [("enc_", "analysis.")], "a toy"))
        ['analysis.0.skip.bias']
    """
    converted, unknown = {}, []
    for name, tensor in checkpoint.items():
        for pattern, replacement in rules:
            renamed, count = re.subn("^" + pattern, replacement, name)
            if count:
                break
        else:
            unknown.append(name)
            continue
        for pattern, replacement in blocks:
            renamed = re.sub(pattern, replacement, renamed)
        converted[renamed] = tensor
    if unknown:
        raise WeightsError(
            f"checkpoint entry {', '.join(map(repr, unknown[:8]))}{', ...' if len(unknown) > 8 else ''} is not a name "
            f"of {codec} ({len(unknown)} of {len(checkpoint)} are not); wrong file or wrong variant?"
        )
    return converted
