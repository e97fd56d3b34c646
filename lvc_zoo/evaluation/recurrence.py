"""How the cells of a recurrent codec grow where no I frame resets them: by frame, beside the quality."""

import io
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from ..blocks.recurrent import ConvLSTMCell, LSTMState
from ..codec.observe import observe
from ..codec.reader import FrameReader
from ..codec.video import DEFAULT_Q, VideoCodec
from ..gop import LowDelay
from ..metrics import psnr_db


@dataclass(frozen=True, slots=True)
class CellMagnitude:
    """One ConvLSTM; a value for each P frame, of the state that was made while it was coded.

    Attributes:
        mean_cell: mean of |c| over channels and positions, the picture's padding among them.
        max_cell: largest |c|.
        mean_hidden: mean of |h|.
    """

    mean_cell: list[float] = field(default_factory=list)
    max_cell: list[float] = field(default_factory=list)
    mean_hidden: list[float] = field(default_factory=list)

    def append(self, state: LSTMState) -> None:
        """Take in the next frame's state."""
        self.mean_cell.append(float(state.cell.abs().mean()))
        self.max_cell.append(float(state.cell.abs().max()))
        self.mean_hidden.append(float(state.hidden.abs().mean()))


@dataclass(frozen=True, slots=True)
class CellGrowth:
    """A clip coded with one I frame.

    Attributes:
        q: rate point.
        psnr_db: RGB, of each frame; the first is the I frame.
        payload_bytes: of each frame.
        chains: by module name of the cell in the inter network.
    """

    q: int
    psnr_db: list[float]
    payload_bytes: list[int]
    chains: dict[str, CellMagnitude]


def measure_cell_growth(codec: VideoCodec, reader: FrameReader, q: int = DEFAULT_Q) -> CellGrowth:
    """Encode a clip as one I frame and P frames, noting the magnitude of every ConvLSTM state.

    Args:
        codec: low-delay, with ConvLSTM cells.
        reader: the clip; a decoder's states are the same to the last bit.
        q: rate point, an integer 0..63.

    Raises:
        ValueError: for a codec without such cells.
    """
    parts = dict(codec.inter.named_modules()) if codec.inter is not None else {}
    chains = {name: CellMagnitude() for name, part in parts.items() if isinstance(part, ConvLSTMCell)}
    if codec.inter is None or not chains:
        raise ValueError(f"{codec.variant!r} has no ConvLSTM cell; measure a codec that has one, such as 'lstec-tiny'")
    psnr, sizes = [], []
    with observe(codec.inter, *chains) as seen:
        coded = codec.encode_frames(reader, io.BytesIO(), q, LowDelay(None))
        for x, (frame, record) in zip(reader, coded, strict=True):
            psnr.append(float(psnr_db(frame.x_hat[0].cpu(), x)))
            sizes.append(record.payload_bytes)
            for name, states in seen.items():
                for state in states:
                    chains[name].append(state)
                states.clear()  # all of a long clip would not fit into memory
    return CellGrowth(q, psnr, sizes, chains)


def growth_table(growth: CellGrowth) -> Table:
    """What a terminal shows: P frames 1, 2, 4, 8, ... and the last one."""
    table = Table()
    columns = [f"{name} {what}" for name in growth.chains for what in ("mean |c|", "max |c|", "mean |h|")]
    for column in ("P frame", *columns, "PSNR-RGB dB"):
        table.add_column(column, justify="right")
    last = len(growth.psnr_db) - 1
    for number in sorted({*(1 << power for power in range(last.bit_length())), last} - {0}):
        values = [
            f"{series[number - 1]:.3f}"
            for chain in growth.chains.values()
            for series in (chain.mean_cell, chain.max_cell, chain.mean_hidden)
        ]
        table.add_row(str(number), *values, f"{growth.psnr_db[number]:.2f}")
    return table


def draw_cell_growth(growth: CellGrowth, path: Path, title: str = "") -> None:
    """Write the plot: |c|, |h| and PSNR over frames.

    Args:
        growth: what was measured.
        path: a .png file.
        title: above the plot.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7.5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    cells, hidden, quality = figure.subplots(3, 1, sharex=True)
    for number, (name, chain) in enumerate(growth.chains.items()):
        frames = range(1, 1 + len(chain.mean_cell))
        cells.plot(frames, chain.max_cell, color=f"C{number}", linestyle="--", label=f"{name}, max")
        cells.plot(frames, chain.mean_cell, color=f"C{number}", label=f"{name}, mean")
        hidden.plot(frames, chain.mean_hidden, color=f"C{number}", label=name)
    frames = range(1, len(growth.psnr_db))
    cells.plot(frames, frames, color="0.6", linestyle=":", label="bound: one a frame")
    cells.set(ylabel="|c|", yscale="log")
    hidden.set(ylabel="mean |h|", ylim=(0, None))
    quality.plot(range(len(growth.psnr_db)), growth.psnr_db, color="0.2")
    quality.set(ylabel="PSNR-RGB, dB", xlabel=f"frame (0 is the only I frame; q = {growth.q})")
    for axes in (cells, hidden):
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)
