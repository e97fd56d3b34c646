"""`lvc-zoo fit` and its like through the command itself; bad recipes stop before the first step, in one line."""

import warnings
from fractions import Fraction

import pytest
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar

from lvc_zoo import BiECVC
from lvc_zoo.cli import main
from lvc_zoo.color import ColorSpec
from lvc_zoo.config import to_dict
from lvc_zoo.data import open_writer
from lvc_zoo.data.datasets import RandomClips
from lvc_zoo.training import command
from lvc_zoo.training.callbacks import read_curve
from tests.miniature import CONFIG, moving_clip

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own, about missing loggers and data that cannot resume


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    folder, spec = tmp_path_factory.mktemp("footage"), ColorSpec(matrix="bt601", full_range=False, chroma="444")
    with open_writer(folder / "clip.mkv", width=64, height=64, frame_rate=Fraction(25), color=spec) as writer:
        for frame in moving_clip(3, 64, 64):
            writer.write(frame)
    return folder


@pytest.fixture
def recipe(footage, tmp_path):
    """A sound recipe as nested dicts."""
    stage = {"name": "all", "steps": 4, "num_frames": 1, "learning_rate": 1e-3}
    model = {"variant": "biecvc", "overrides": to_dict(CONFIG), "stages": [stage]}
    data = {"folders": [str(footage)], "cache": str(tmp_path / "cache"), "batch_size": 4, "crop": 64}
    trainer = {"default_root_dir": str(tmp_path / "run"), "accelerator": "cpu", "logger": False}
    curve = {"class_path": "lvc_zoo.training.callbacks.TrainingCurve"}
    curve["init_args"] = {"folder": str(tmp_path / "run"), "every_n_steps": 1}
    return {
        "model": {"class_path": "lvc_zoo.training.tasks.IntraTask", "init_args": model},
        "data": {"class_path": "lvc_zoo.data.datamodules.ClipFolders", "init_args": data},
        "trainer": {**trainer, "enable_progress_bar": False, "enable_model_summary": False, "callbacks": [curve]},
    }


def run(recipe, tmp_path, *options, subcommand="fit"):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return main([subcommand, "--config", str(path), *options])


def changed(recipe, path, value, remove=()):
    """The recipe with one entry set, by a dotted path."""
    *parents, last = path.split(".")
    target = recipe
    for parent in parents:
        target = target[parent]
    for key in remove:
        target.pop(key)
    target[last] = value
    return recipe


MODEL, DATA = "model.init_args", "data.init_args"
BAD = {
    "unknown setting of the model": (
        f"{MODEL}.varient",
        "biecvc",
        "IntraTask has no setting 'varient'; the nearest is",
    ),
    "unknown setting of the data": (
        f"{DATA}.folderz",
        [],
        "ClipFolders has no setting 'folderz'; the nearest",
    ),
    "unknown setting of the trainer": (
        "trainer.max_stepz",
        3,
        "unknown key 'trainer.max_stepz'; the nearest are 'max_",
    ),
    "unknown part of the recipe": ("tranier", {"a": 1}, "unknown key 'tranier.a'; the nearest is 'trainer'"),
    "unknown task": ("model.class_path", "lvc_zoo.training.tasks.IntraTusk", "has no attribute 'IntraTusk'"),
    "value of another type": (
        "trainer.max_steps",
        "two",
        "trainer.max_steps\": Expected a <class 'int'>. Got value: two",
    ),
    "unknown variant": (f"{MODEL}.variant", "biecvc-tny", "unknown model 'biecvc-tny'"),
    "unknown config entry": (f"{MODEL}.overrides", {"latemt": 64}, "the nearest is 'latent'"),
    "missing folder": (f"{DATA}.folders", ["nowhere"], "nowhere is not a folder; give one that holds"),
    "too few frames": (f"{MODEL}.stages", [{"num_frames": 9}], "raise num_frames|lower num_frames|9 frames"),
    "crops larger than the footage": (f"{DATA}.crop", 128, "128"),
    "batch without every anchor": (f"{DATA}.batch_size", 6, "holds 6 clips, expected a multiple of 4"),
    "crops too small for MS-SSIM": (f"{MODEL}.distortion", "ms-ssim", "crop is 64, expected at least 161"),
    "crops that the codec pads": (f"{DATA}.crop", 80, "crop is 80, expected a multiple of 64"),
    "more steps than the table has": ("trainer.max_steps", 5, "max_steps is 5, but the stage table has 4 steps"),
    "I frames that are warped": (f"{MODEL}.stages", [{"distortion": "warp"}], "I frames have no motion"),
    "missing weights": (f"{MODEL}.weights", "runs/nothing/weights", "runs/nothing/weights"),
    "step without frames": (f"{MODEL}.stages", [{"num_frames": 0}], "num_frames is 0, expected at least 1"),
    "empty stage table": (f"{MODEL}.stages", [], "stages is empty, expected at least one entry"),
    "empty frame weights": (f"{MODEL}.frame_weights", [], "frame_weights is empty"),
    "falling below zero": (f"{MODEL}.stages", [{"final_learning_rate": -1e-3}], "final_learning_rate is -0.001"),
    "weights in bfloat16": ("trainer.precision", "bf16-true", "precision is bf16-true, expected bf16-mixed or 32-true"),
    "fresh start without shortcuts": (f"{MODEL}.fresh", True, "linear shortcuts, which custom has not; leave it out"),
    "fresh start of trained weights": (f"{MODEL}.weights", "biecvc-tiny", "fresh would start the trained transforms"),
    "weights of another variant": (f"{MODEL}.weights", "lstec-tiny", "are of 'lstec-tiny'; leave one out"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_recipe_stops_before_the_first_step_with_one_line(case, recipe, tmp_path, capsys):
    path, value, said = BAD[case]
    if path.endswith("stages"):
        value = [recipe["model"]["init_args"]["stages"][0] | row for row in value]
    remove = ("overrides",) if path == f"{MODEL}.weights" or case == "unknown variant" else ()
    if case == "fresh start of trained weights":
        recipe["model"]["init_args"] |= {"variant": "biecvc-tiny", "fresh": True}
    if case == "crops that the codec pads":
        recipe["model"]["init_args"] |= {"variant": "dcvc-tcm", "overrides": {"channels": 8, "intra.channels": 8}}
        recipe["data"]["init_args"]["folders"] = ["demo"]
    assert run(changed(recipe, path, value, remove), tmp_path) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lvc-zoo: error: ")]
    assert len(lines) == 1
    assert any(part in lines[0] for part in said.split("|")), lines[0]
    assert "Traceback" not in lines[0]
    assert len(lines[0]) < 600
    assert not (tmp_path / "run" / "curve.csv").exists()


def test_wrong_number_of_frames_for_b_frames_stops(recipe, tmp_path, capsys):
    recipe["model"]["class_path"] = "lvc_zoo.training.tasks.BiECVCTask"
    recipe["model"]["init_args"]["stages"][0]["num_frames"] = 4
    assert run(recipe, tmp_path) == 2
    assert "stage 'all': clips have 4 frames, expected one more than a power of two" in capsys.readouterr().err


def test_missing_recipe_is_named(tmp_path, capsys):
    assert main(["fit", "--config", str(tmp_path / "nothing.yaml")]) == 2
    assert "nothing.yaml" in capsys.readouterr().err.splitlines()[-1]


def test_recipe_that_is_no_yaml_is_told(tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("model\n  class_path: x\n")
    assert main(["fit", "--config", str(tmp_path / "bad.yaml")]) == 2
    assert "mapping values are not allowed" in capsys.readouterr().err


def test_bf16_that_the_processor_imitates_is_warned_of(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "has_bf16_instructions", lambda: False)
    recipe["trainer"] |= {"precision": "bf16-mixed", "max_steps": 0}
    assert run(recipe, tmp_path) == 0
    assert "this CPU has no bfloat16 instructions" in capsys.readouterr().err


def test_trees_too_short_for_two_b_references_are_warned_of(recipe, tmp_path, capsys):
    recipe["model"]["class_path"] = "lvc_zoo.training.tasks.BiECVCTask"
    recipe["model"]["init_args"]["stages"][0]["num_frames"] = 3
    recipe["trainer"]["max_steps"] = 0
    assert run(recipe, tmp_path) == 0
    assert "add a stage of 9 frames" in capsys.readouterr().err


def test_bf16_instructions_are_read_from_the_processor_flags(tmp_path):
    for flags, expected in (("fpu avx512f", False), ("fpu avx512_bf16 sha", True), ("asimd bf16", True)):
        (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
        assert command.has_bf16_instructions(tmp_path / "cpuinfo") is expected
    assert command.has_bf16_instructions(tmp_path / "nothing")


def test_error_in_the_middle_of_training_keeps_its_traceback(recipe, tmp_path, monkeypatch):
    take = RandomClips.__getitem__

    def failing(self, index):
        if index >= 4:
            raise ValueError("the disk is gone")
        return take(self, index)

    monkeypatch.setattr(RandomClips, "__getitem__", failing)
    with pytest.raises(RuntimeError, match="training stopped at step 0: the disk is gone"):
        run(recipe, tmp_path)


def test_resumed_run_repeats_an_unbroken_one_then_tests_and_predicts(recipe, footage, tmp_path, capsys):
    checkpoint = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}
    folder = str(tmp_path / "run" / "checkpoints")
    checkpoint["init_args"] = {"dirpath": folder, "every_n_train_steps": 1, "save_last": True}
    recipe["trainer"]["callbacks"].append(checkpoint)
    recipe["data"]["init_args"] |= {"test_folders": [str(footage)], "val_frames": 1, "val_crop": 64}
    assert run(recipe, tmp_path) == 0
    whole = read_curve(tmp_path / "run" / "curve.csv")
    assert [row["step"] for row in whole] == [1, 2, 3, 4]
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.unlink()

    assert run(recipe, tmp_path, "--trainer.max_steps=2") == 0
    assert run(recipe, tmp_path, "--ckpt_path=last") == 0
    assert read_curve(tmp_path / "run" / "curve.csv") == whole

    (told,) = BiECVC.from_pretrained(tmp_path / "run" / "weights").metadata["training"]
    assert told["data"]["datamodule"] == "ClipFolders"
    assert not [name for name in (*told, *told["data"]) if name.startswith("_")]
    assert run(recipe, tmp_path, "--ckpt_path=last", subcommand="test") == 0
    assert "test/bpp" in capsys.readouterr().out
    assert run(recipe, tmp_path, "--ckpt_path=last", subcommand="predict") == 0
    streams = sorted((tmp_path / "run" / "streams").iterdir())
    assert [path.name for path in streams] == [f"{footage.name}_clip.mkv.q{q}.lvc" for q in ("00", "21", "42", "63")]
    frames = list(BiECVC.from_pretrained(tmp_path / "run" / "weights").decode(streams[2]))
    assert [frame.shape for frame in frames] == [(3, 64, 64)]


@pytest.mark.parametrize(("subcommand", "name"), [("validate", "val"), ("test", "test"), ("predict", "test")])
def test_measuring_no_clips_stops(recipe, tmp_path, capsys, subcommand, name):
    assert run(recipe, tmp_path, subcommand=subcommand) == 2
    assert f"{subcommand} takes the clips of {name}_folders, which are none" in capsys.readouterr().err


def test_test_clips_need_no_training_clips(recipe, footage, tmp_path, tiny_weights):
    recipe["model"]["init_args"] = {"weights": str(tiny_weights)}
    recipe["data"]["init_args"] |= {"folders": ["nowhere"], "val_frames": 1, "val_crop": 64}
    recipe["data"]["init_args"]["test_folders"] = [str(footage)]
    assert run(recipe, tmp_path, subcommand="test") == 0


@pytest.mark.parametrize("subcommand", ["validate", "test", "predict"])
def test_measuring_what_has_learned_nothing_stops(recipe, footage, tmp_path, capsys, subcommand):
    folders = {"test_folders": [str(footage)], "val_folders": [str(footage)]}
    recipe["data"]["init_args"] |= {"val_frames": 1, "val_crop": 64} | folders
    assert run(recipe, tmp_path, subcommand=subcommand) == 2
    assert f"{subcommand} would measure an untrained network; add --ckpt_path last" in capsys.readouterr().err
    assert run(recipe, tmp_path, "--ckpt_path=last", subcommand=subcommand) == 2
    assert "checkpoints has no last.ckpt; fit the recipe first" in capsys.readouterr().err


def test_clips_without_ms_ssim_stop_before_the_first_step(recipe, footage, tmp_path, capsys):
    """They come up only in the last validation."""
    recipe["model"]["init_args"]["distortion"] = "ms-ssim"
    recipe["data"]["init_args"] |= {"folders": ["demo"], "crop": 192, "val_folders": [str(footage)], "val_frames": 1}
    recipe["trainer"]["num_sanity_val_steps"] = 0
    assert run(recipe, tmp_path) == 2
    assert "has 3 frames of 64x64, expected at least 1 of 192x192 for validation" in capsys.readouterr().err
    assert not (tmp_path / "run" / "weights").exists()


def test_export_folder_of_something_else_stops_before_the_first_step(recipe, tmp_path, capsys):
    (tmp_path / "run" / "weights").mkdir(parents=True)
    (tmp_path / "run" / "weights" / "notes.txt").touch()
    assert run(recipe, tmp_path) == 2
    assert "is not a weights folder (notes.txt) and is left alone" in capsys.readouterr().err
    assert not (tmp_path / "run" / "curve.csv").exists()


def test_epochs_of_a_few_batches_end_the_run(recipe, tmp_path):
    recipe["trainer"] |= {"max_epochs": 1, "limit_train_batches": 3}
    assert run(recipe, tmp_path) == 0
    assert [row["step"] for row in read_curve(tmp_path / "run" / "curve.csv")] == [1, 2, 3]


def test_bench_of_a_recipe_leaves_its_folder_alone(recipe, tmp_path, capsys):
    recipe["trainer"]["callbacks"].append({"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["bench", str(tmp_path / "recipe.yaml"), "--training"]) == 0
    assert "frames/s" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_default_callbacks_leave_out_what_a_recipe_names(tmp_path):
    settings = {"default_root_dir": str(tmp_path), "callbacks": None}
    names = {type(callback).__name__ for callback in command.default_callbacks(settings)}
    expected = {"RunCheckpoint", "WeightAverage", "NaNGuard", "TrainingCurve", "ExportCodec", "RDPictures"}
    expected |= {"StreamWriter", "StageProgress"}
    assert names == expected
    settings |= {"callbacks": [command.NaNGuard(3)], "enable_checkpointing": False, "enable_progress_bar": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = {type(callback).__name__ for callback in command.default_callbacks(settings)}
    assert names == expected - {"NaNGuard", "RunCheckpoint", "StageProgress"}
    settings |= {"callbacks": [ModelCheckpoint(tmp_path)], "enable_checkpointing": True}
    assert "RunCheckpoint" not in {type(callback).__name__ for callback in command.default_callbacks(settings)}
    settings |= {"callbacks": [TQDMProgressBar()], "enable_progress_bar": True}
    assert "StageProgress" not in {type(callback).__name__ for callback in command.default_callbacks(settings)}
