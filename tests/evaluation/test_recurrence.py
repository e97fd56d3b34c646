"""Growth of recurrent cells, against cells with known gates and against a recomputation from the cells' inputs."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lvc_zoo import LowDelay, create_model
from lvc_zoo.cli import main
from lvc_zoo.codec.reader import TensorReader
from lvc_zoo.evaluation.bench import BenchRequest
from lvc_zoo.evaluation.recurrence import draw_cell_growth, growth_table, measure_cell_growth
from tests.miniature import moving_clip
from tests.recurrent import recurrent

CHAINS = ["temporal.chain.cell", "spatial.chain.cell"]


def smallest(**overrides):
    torch.manual_seed(0)
    intra = {"intra.latent": 16, "intra.hyper": 8, "intra.prior_width": 16}
    shape = {"latent": 16, "hyper": 8, "motion": 8, "prior_width": 16}
    return create_model("lstec-tiny", **intra, **shape, **overrides).eval()


def test_growth_of_open_gates_is_one_a_frame():
    codec = smallest()
    with torch.no_grad():
        for name in CHAINS:
            gates = codec.inter.get_submodule(name).gates
            gates.weight.zero_()
            gates.bias.fill_(40)
    growth = measure_cell_growth(codec, TensorReader(moving_clip(6, 32, 48)), 21)
    assert list(growth.chains) == CHAINS
    for chain in growth.chains.values():
        assert chain.mean_cell == chain.max_cell == [1, 2, 3, 4, 5]
        assert chain.mean_hidden == pytest.approx([math.tanh(step) for step in range(1, 6)])


def test_growth_equals_that_of_cells_run_on_their_inputs_again():
    codec, inputs = smallest(), {name: [] for name in CHAINS}
    with torch.no_grad():
        for name in CHAINS:
            cell = codec.inter.get_submodule(name)
            cell.gates.weight *= 5
            cell.register_forward_pre_hook(lambda _, args, name=name: inputs[name].append(args[0].double()))
    growth = measure_cell_growth(codec, TensorReader(moving_clip(5, 33, 48)), 21)
    for name, chain in growth.chains.items():
        gates = codec.inter.get_submodule(name).gates.double().requires_grad_(False)
        hidden = cell = torch.zeros(1, 8, 48, 48, dtype=torch.float64)  # 33 lines are padded
        assert len(inputs[name]) == len(chain.mean_cell) == 4
        for step, x in enumerate(inputs[name]):
            out = F.conv2d(torch.cat([hidden, x], dim=1), gates.weight, gates.bias, padding=1)
            i, f, o, g = out.unflatten(1, (4, 8)).unbind(1)
            cell = cell / (1 + torch.exp(-f)) + torch.tanh(g) / (1 + torch.exp(-i))
            hidden = torch.tanh(cell) / (1 + torch.exp(-o))
            assert chain.mean_cell[step] == pytest.approx(float(cell.abs().mean()), rel=1e-4)
            assert chain.max_cell[step] == pytest.approx(float(cell.abs().max()), rel=1e-4)
            assert chain.mean_hidden[step] == pytest.approx(float(hidden.abs().mean()), rel=1e-4)


def test_growth_quality_is_that_of_the_decoded_stream():
    codec, clip = smallest(), moving_clip(4, 32, 48)
    growth = measure_cell_growth(codec, TensorReader(clip), 42)
    data = codec.compress(clip, 42, LowDelay(None))
    error = (codec.decompress(data) - clip).square().mean(dim=(1, 2, 3))
    assert growth.psnr_db == pytest.approx((-10 * torch.log10(error)).tolist(), abs=1e-3)
    assert growth.q == 42
    # the rest is header, framing and trailer
    assert 0 < len(data) - sum(growth.payload_bytes) < 250


def test_growth_of_temporal_chain_alone_has_one_entry():
    growth = measure_cell_growth(smallest(spatial=False), TensorReader(moving_clip(2, 16, 16)))
    assert list(growth.chains) == CHAINS[:1]


@pytest.mark.parametrize("make", [recurrent, lambda: create_model("dcvc-dc-intra", latent=16)], ids=["inter", "intra"])
def test_codec_without_cells_raises(make):
    with pytest.raises(ValueError, match="has no ConvLSTM cell; measure a codec that has one, such as 'lstec-tiny'"):
        measure_cell_growth(make(), TensorReader(moving_clip(2, 16, 16)))


def test_table_shows_powers_of_two_and_the_last_frame():
    growth = measure_cell_growth(smallest(), TensorReader(moving_clip(7, 16, 16)))
    table = growth_table(growth)
    assert list(table.columns[0].cells) == ["1", "2", "4", "6"]
    assert list(table.columns[1].cells) == [f"{growth.chains[CHAINS[0]].mean_cell[n - 1]:.3f}" for n in (1, 2, 4, 6)]
    assert list(table.columns[-1].cells) == [f"{growth.psnr_db[n]:.2f}" for n in (1, 2, 4, 6)]


def test_plot_is_a_picture_that_depends_on_the_values(tmp_path):
    growth = measure_cell_growth(smallest(), TensorReader(moving_clip(4, 16, 16)))
    draw_cell_growth(growth, tmp_path / "before.png", "a title")
    growth.chains[CHAINS[0]].mean_cell[-1] *= 3
    draw_cell_growth(growth, tmp_path / "after.png", "a title")
    pictures = []
    for name in ("before.png", "after.png"):
        with Image.open(tmp_path / name) as picture:
            pictures.append((picture.size, picture.convert("RGB").tobytes()))
    assert pictures[0][0] == pictures[1][0]
    assert min(pictures[0][0]) > 400
    assert pictures[0][1] != pictures[1][1]


def test_bench_recurrence_gives_json_and_plot(tmp_path, capsys):
    smallest().save_pretrained(tmp_path / "weights")
    out = tmp_path / "cells.png"
    arguments = ["bench", tmp_path / "weights", "--recurrence", "--frames", 4, "--size", "32x16", "--out", out]
    assert main([*map(str, arguments), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert "stages" not in data
    assert data["time_size"] == [32, 16]
    growth = data["recurrence"]
    assert len(growth["psnr_db"]) == 4
    assert {name: len(chain["mean_cell"]) for name, chain in growth["chains"].items()} == dict.fromkeys(CHAINS, 3)
    assert out.read_bytes().startswith(b"\x89PNG")


def test_bench_picture_without_recurrence_raises(tmp_path):
    with pytest.raises(ValueError, match="plot of --recurrence; add that"):
        BenchRequest(picture=tmp_path / "cells.png")
