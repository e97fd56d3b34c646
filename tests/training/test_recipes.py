"""Every recipe is parsed, built and takes two steps, shrunk from the command line: crops, frames and widths."""

from fractions import Fraction
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml

from lvc_zoo.color import ColorSpec
from lvc_zoo.config import to_dict
from lvc_zoo.data import open_writer
from lvc_zoo.data.folders import names_in
from lvc_zoo.training import tasks
from lvc_zoo.training.command import recipe_cli
from lvc_zoo.training.schedules import ms_ssim_fine_tuning
from lvc_zoo.training.stages import Stage
from tests.miniature import CONFIG, moving_clip

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own, about workers and missing loggers
RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes" / "train").glob("*.yaml"))
INTRA = to_dict(CONFIG.intra)
SHARED = {"features": [8, 8, 16], "current": [8, 8, 16], "latent": 64, "hyper": 8, "motion": 16}
SHARED |= {"intra": INTRA, "spynet_widths": [8, 8, 8, 8], "unet_widths": [8, 8, 8], "unet_depth": 1}
TCM = {"channels": 8, "latent": 16, "motion": 16, "spynet_widths": [8, 8, 8, 8], "intra.channels": 16}
MINIATURES = {
    "BiECVCTask": to_dict(CONFIG),
    "LSTECTask": SHARED | {"unets": 1, "spynet_kernel": 3},
    "DCVCDCTask": SHARED | {"align_groups": 4},
    "DCVCTCMTask": TCM,
    "dcvc-dc-intra": INTRA,
    "dcvc-tcm-intra": {"channels": 16},
}


def settings_of(recipe):
    return yaml.safe_load(recipe.read_text())


def task_name(recipe):
    return settings_of(recipe)["model"]["class_path"].rsplit(".", 1)[1]


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """Folders with a long clip of small frames and a short one of large frames."""
    folder, spec = tmp_path_factory.mktemp("footage"), ColorSpec(matrix="bt601", full_range=False, chroma="444")
    for name, count, side in (("small", 34, 64), ("large", 3, 176)):
        (folder / name).mkdir()
        path = folder / name / "clip.mkv"
        with open_writer(path, width=side, height=side, frame_rate=Fraction(25), color=spec) as writer:
            for frame in moving_clip(count, side, side):
                writer.write(frame)
    return folder


def shrunk(recipe, footage, out):
    """Options that make a recipe small; its stages stay where they do not need long clips of large frames."""
    model = settings_of(recipe)["model"]["init_args"]
    is_large = model.get("distortion") == "ms-ssim"
    options = [
        "--data=lvc_zoo.data.datamodules.ClipFolders",
        f"--data.folders=[{footage / ('large' if is_large else 'small')}]",
    ]
    options += [f"--data.cache={out}/cache", "--data.batch_size=4", "--data.num_workers=0"]
    options += [f"--data.crop={176 if is_large else 64}", "--trainer.max_steps=2", "--trainer.accelerator=cpu"]
    options += ["--trainer.precision=32-true", "--trainer.logger=false", "--trainer.enable_checkpointing=false"]
    options += ["--trainer.enable_progress_bar=false", "--trainer.callbacks=null", f"--trainer.default_root_dir={out}"]
    if is_large or recipe.stem.endswith("continued"):
        frames = 3 if task_name(recipe) == "BiECVCTask" else 2
        row = f"name: short, steps: 2, num_frames: {frames}, learning_rate: 1.0e-4, warmup_steps: 0, strides: [1]"
        options.append(f"--model.stages=[{{{row}}}]")
    if "tiny" in model.get("variant", ""):
        return [*options, "--model.fresh=false", *(["--model.intra=biecvc-tiny"] if "intra" in model else [])]
    name = task_name(recipe)
    widths = MINIATURES[model["variant"] if name == "IntraTask" else name]
    options += [f"--model.overrides={yaml.safe_dump(widths | model.get('overrides', {}), default_flow_style=True)}"]
    if "smoke" in recipe.stem:
        return options[:-1]
    return [*options, "--model.intra=null", "--model.weights=null"]


class Losses(L.Callback):
    """What was logged."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, *_):
        self.values.append(float(trainer.callback_metrics["train/loss"]))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_recipe_is_built_and_takes_two_steps(recipe, footage, tmp_path):
    cli = recipe_cli(["--config", str(recipe), *shrunk(recipe, footage, tmp_path)], is_run=False)
    losses = Losses()
    cli.trainer.callbacks.append(losses)
    before = [p.detach().clone() for p in cli.model.network.parameters()]
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    assert len(losses.values) == 2
    assert all(0 < loss < 1e4 for loss in losses.values)
    assert any(not torch.equal(a, b) for a, b in zip(before, cli.model.network.parameters(), strict=True))


TABLES = [
    recipe
    for recipe in RECIPES
    if len(settings_of(recipe)["model"]["init_args"].get("stages", [])) > 4 and not recipe.stem.endswith("continued")
]


@pytest.mark.parametrize("recipe", TABLES, ids=lambda recipe: recipe.stem)
def test_every_kind_of_stage_takes_a_step_in_the_precision_of_its_recipe(recipe, footage, tmp_path):
    """The paper's tables, each kind of row once: motion alone, without rate, detached, chunked, checkpointed, ..."""
    kinds = ("trained", "distortion", "rate", "frame_weights", "backpropagation", "checkpointing")
    rows = {}
    for row in settings_of(recipe)["model"]["init_args"]["stages"]:
        frames = min(row["num_frames"], 5)
        short = row | {"steps": 1, "num_frames": frames, "strides": [1], "warmup_steps": 0, "chunk": 2}
        rows[str([row.get(kind) for kind in kinds])] = short
    options = shrunk(recipe, footage, tmp_path)
    options = [o for o in options if not o.startswith(("--trainer.max_steps", "--trainer.precision", "--model.stages"))]
    options.append(f"--model.stages={yaml.safe_dump([*rows.values()], default_flow_style=True)}")
    cli = recipe_cli(["--config", str(recipe), *options], is_run=False)
    losses = Losses()
    cli.trainer.callbacks.append(losses)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    assert len(losses.values) == len(rows) > 4
    assert all(0 < loss < 1e4 for loss in losses.values)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_recipe_says_what_it_is_and_keeps_to_its_folder(recipe):
    settings, lines = settings_of(recipe), recipe.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert settings["trainer"]["default_root_dir"] == f"runs/{recipe.stem}"
    stated = settings["model"]["init_args"].get("stages", [])
    table = [Stage(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}) for row in stated]
    if table and task_name(recipe) == "BiECVCTask":
        assert max(stage.num_frames for stage in table) >= tasks.TWO_B_REFERENCES
    if "tiny" not in recipe.stem and "smoke" not in recipe.stem:
        default = getattr(tasks, task_name(recipe)).default_stages
        if "ms-ssim" in recipe.stem:
            default = ms_ssim_fine_tuning(default)
        assert tuple(table) == (() if "ablation" in recipe.stem else default)


def test_weights_that_recipes_name_are_made_by_recipes():
    made = {f"runs/{recipe.stem}/weights" for recipe in RECIPES} | {"biecvc-tiny", "lstec-tiny"}
    for recipe in RECIPES:
        model = settings_of(recipe)["model"]["init_args"]
        assert {model[key] for key in ("weights", "intra") if key in model} <= made, recipe


def test_demo_stands_for_one_clip(tmp_path):
    assert names_in("demo", tmp_path) == ["bikes.mp4"]
