"""Weights folders, and the real Hub client against a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import struct
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub import ModelCard

from lvc_zoo import hub
from lvc_zoo.errors import WeightsError

LocalHub = runpy.run_path(str(Path(__file__).with_name("hub_server.py")))["LocalHub"]
CONFIG = {"variant": "codec-tiny", "codec": "Codec", "config": {"channels": [4, 8]}, "training": {"steps": 10}}


def make_states(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 3, 2, 2, generator=generator)
    return {
        "intra": {"conv.weight": weight, "conv.half": weight[0].half(), "conv.brain": weight[1].bfloat16()},
        "inter": {"scale": torch.tensor(2.5), "counts": torch.arange(12, dtype=torch.int32).reshape(3, 4)},
    }


def assert_states_equal(got, expected):
    assert got.keys() == expected.keys()
    for part, state in expected.items():
        assert got[part].keys() == state.keys()
        for name, tensor in state.items():
            assert got[part][name].dtype == tensor.dtype
            assert torch.equal(got[part][name], tensor)


def make_folder(path: Path, seed: int = 0) -> Path:
    return hub.write_folder(path, CONFIG, make_states(seed), hub.model_card(CONFIG))


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def edit_config(path: Path, **changes: object) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "weights")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub that this process's client talks to, with an empty cache and no token."""
    with LocalHub() as server:
        constants = huggingface_hub.constants
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server
        huggingface_hub.close_session()


# The folder


def test_folder_read_after_write_is_equal(folder):
    config, states = hub.read_folder(folder)
    assert_states_equal(states, make_states())
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files_of(folder).items() if "saf" in name}
    assert config == {"format": 1, **CONFIG, "sha256": digests}


def test_folder_written_twice_has_equal_bytes(folder, tmp_path):
    assert files_of(make_folder(tmp_path / "again")) == files_of(folder)


def test_folder_of_an_intra_codec_lacks_inter(tmp_path):
    path = hub.write_folder(tmp_path / "intra", CONFIG, {"intra": make_states()["intra"]}, "card")
    assert sorted(files_of(path)) == ["README.md", "config.json", "intra.safetensors"]
    assert list(hub.read_folder(path)[1]) == ["intra"]


def test_tensors_that_share_memory_or_are_strided_are_stored_apart(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    states = {"intra": {"base": base, "same": base, "view": base[1:3], "transposed": base.T, "strided": base[:, ::2]}}
    path = hub.write_folder(tmp_path / "shared", CONFIG, states, "card")
    assert_states_equal(hub.read_folder(path)[1], states)


def test_writing_over_an_older_weights_folder_replaces_it_whole(folder):
    hub.write_folder(folder, CONFIG, {"intra": make_states(1)["intra"]}, "card")
    assert_states_equal(hub.read_folder(folder)[1], {"intra": make_states(1)["intra"]})
    assert [path.name for path in folder.parent.iterdir()] == ["weights"]


def test_pictures_are_copied_shown_and_replaced_with_the_folder(tmp_path):
    picture = tmp_path / "curve.png"
    picture.write_bytes(b"lines")
    path = hub.write_folder(tmp_path / "weights", CONFIG, make_states(), "card", [picture])
    config = json.loads((path / "config.json").read_text())
    assert config["pictures"] == ["curve.png"]
    assert "![curve](curve.png)" in hub.model_card(config)
    hub.write_folder(path, CONFIG, make_states(), "card")
    assert sorted(files_of(path)) == ["README.md", "config.json", "inter.safetensors", "intra.safetensors"]


def test_picture_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json is no PNG"):
        hub.write_folder(tmp_path / "weights", CONFIG, make_states(), "card", [tmp_path / "config.json"])
    assert not any(tmp_path.iterdir())


def test_writing_that_fails_keeps_the_older_folder(folder):
    before = files_of(folder)
    with pytest.raises(WeightsError, match="'variant': None, expected a JSON str"):
        hub.write_folder(folder, {**CONFIG, "variant": None}, make_states(1), "card")
    assert files_of(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["weights"]


@pytest.mark.parametrize(
    "content", [{"notes.txt": "mine"}, {"config.json": '{"model_type": "bert"}', "model.safetensors": ""}]
)
def test_writing_over_a_foreign_folder_is_refused(tmp_path, content):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(WeightsError, match=r"is not a weights folder .* and is left alone"):
        make_folder(tmp_path)
    assert {name: data.decode() for name, data in files_of(tmp_path).items()} == content


def test_writing_over_a_folder_with_other_files_in_it_is_refused(folder):
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(WeightsError, match=r"\(notes\.txt\)"):
        make_folder(folder)
    assert (folder / "notes.txt").exists()


def test_writing_into_an_empty_folder_works(tmp_path):
    (tmp_path / "empty").mkdir()
    assert hub.read_config(make_folder(tmp_path / "empty"))["variant"] == "codec-tiny"


def test_weights_file_with_a_flipped_bit_is_refused(folder):
    file = folder / "inter.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    got, expected = hashlib.sha256(data).hexdigest(), hub.read_config(folder)["sha256"]["inter.safetensors"]
    with pytest.raises(WeightsError, match=rf"inter\.safetensors has sha256 {got}, expected {expected}; download"):
        hub.read_folder(folder)


def test_weights_file_that_is_missing_is_refused(folder):
    (folder / "inter.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"inter\.safetensors is missing, expected sha256 \w{64}; download"):
        hub.read_folder(folder)


def test_weights_file_that_is_not_listed_is_refused(folder):
    (folder / "extra.safetensors").write_bytes((folder / "inter.safetensors").read_bytes())
    with pytest.raises(WeightsError, match=r"holds \['extra\.safetensors'\], but"):
        hub.read_folder(folder)


def test_weights_file_that_is_not_safetensors_is_refused(folder):
    data = struct.pack("<Q", 1 << 40) + b"nonsense"
    (folder / "intra.safetensors").write_bytes(data)
    digests = hub.read_config(folder)["sha256"] | {"intra.safetensors": hashlib.sha256(data).hexdigest()}
    edit_config(folder, sha256=digests)
    with pytest.raises(WeightsError, match=r"intra\.safetensors is not safetensors"):
        hub.read_folder(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "sub/x.safetensors", "weights.pth"])
def test_weights_file_listed_elsewhere_is_refused(folder, name):
    edit_config(folder, sha256=hub.read_config(folder)["sha256"] | {name: "0" * 64})
    with pytest.raises(WeightsError, match=r"expected NAME\.safetensors beside it"):
        hub.read_folder(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not strict JSON"),
        ("[]", "format None, expected 1"),
        ('{"format": 2}', "format 2, expected 1; .* newer version: upgrade"),
        ('{"format": true}', "format True"),
        ('{"format": 1, "format": 1}', "key 'format' occurs twice"),
        ('{"format": 1, "x": NaN}', "NaN is not a JSON number"),
        ('{"format": 1, "variant": 3}', "'variant': 3, expected a JSON str"),
        ('{"format": 1, "variant": "v", "codec": "C", "config": {}}', "'sha256': None, expected a JSON dict"),
    ],
)
def test_config_that_is_not_ours_is_refused(folder, text, message):
    (folder / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=message):
        hub.read_config(folder)


# An intra codec that a bundled variant shares


@pytest.fixture
def sharing(tmp_path, monkeypatch):
    """A bundled folder that names the intra codec of bundled `codec-tiny`, equal to it but in its inter network."""
    monkeypatch.setattr(hub, "BUNDLED", tmp_path / "bundled")
    make_folder(tmp_path / "bundled" / "codec-tiny")
    states = {"intra": make_states()["intra"], "inter": make_states(1)["inter"]}
    path = hub.write_folder(tmp_path / "bundled" / "sharing", {**CONFIG, "variant": "sharing"}, states, "card")
    hub.share_intra(path, "codec-tiny")
    return path


def test_shared_intra_is_read_from_the_variant_that_is_named(sharing):
    assert sorted(files_of(sharing)) == ["README.md", "config.json", "inter.safetensors"]
    config, states = hub.read_folder(hub.resolve("sharing").path)
    file = sharing.parent / "codec-tiny" / "intra.safetensors"
    assert config["intra"] == {"variant": "codec-tiny", "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert list(config["sha256"]) == ["inter.safetensors"]
    assert_states_equal(states, {"inter": make_states(1)["inter"], "intra": make_states()["intra"]})


def test_folder_written_from_a_sharing_one_is_a_full_copy(sharing, tmp_path):
    config, states = hub.read_folder(sharing)
    copy = hub.write_folder(tmp_path / "copy", config, states, "card")
    assert "intra" not in hub.read_config(copy)
    assert (copy / "intra.safetensors").read_bytes() == (sharing.parent / "codec-tiny/intra.safetensors").read_bytes()
    assert_states_equal(hub.read_folder(copy)[1], states)


def test_shared_intra_of_another_version_is_refused(sharing):
    make_folder(sharing.parent / "codec-tiny", seed=7)
    with pytest.raises(WeightsError, match=r"need the intra codec of bundled 'codec-tiny' with sha256 \w{64}, this"):
        hub.read_folder(sharing)


def test_shared_intra_with_a_flipped_bit_is_refused(sharing):
    file = sharing.parent / "codec-tiny" / "intra.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(WeightsError, match=r"codec-tiny/intra\.safetensors has sha256 \w{64}, expected \w{64}"):
        hub.read_folder(sharing)


@pytest.mark.parametrize(
    ("intra", "message"),
    [
        (
            {"variant": "codec-tny", "sha256": ""},
            "no bundled weights are named 'codec-tny'; the nearest is 'codec-tiny'",
        ),
        ({"variant": "../codec-tiny", "sha256": ""}, r"no bundled weights are named '\.\./codec-tiny'"),
        ({"variant": "sharing", "sha256": ""}, r"bundled 'sharing' has no intra\.safetensors of its own"),
        ({"variant": "codec-tiny"}, "expected a bundled variant and the sha256 of its intra.safetensors"),
        ({"variant": 1, "sha256": ""}, "expected a bundled variant"),
        ("codec-tiny", "expected a bundled variant"),
        (None, "expected a bundled variant"),
    ],
)
def test_intra_entry_that_names_nothing_sound_is_refused(sharing, intra, message):
    edit_config(sharing, intra=intra)
    with pytest.raises(WeightsError, match=message):
        hub.read_folder(sharing)


def test_folder_with_an_intra_codec_and_the_name_of_another_is_refused(sharing):
    entry = hub.read_config(sharing)["intra"]
    make_folder(sharing)
    edit_config(sharing, intra=entry)
    with pytest.raises(WeightsError, match=r"holds intra\.safetensors and names that of 'codec-tiny'"):
        hub.read_folder(sharing)


def test_share_of_what_is_not_identical_is_refused_and_changes_nothing(sharing, tmp_path):
    other = make_folder(tmp_path / "other", seed=2)
    before = files_of(other)
    with pytest.raises(WeightsError, match="only an identical file is shared"):
        hub.share_intra(other, "codec-tiny")
    with pytest.raises(WeightsError, match="no bundled weights are named 'absent'"):
        hub.share_intra(other, "absent")
    assert files_of(other) == before
    with pytest.raises(WeightsError, match="is 'codec-tiny' itself"):
        hub.share_intra(sharing.parent / "codec-tiny", "codec-tiny")


def test_sharing_folder_is_not_pushed(sharing, server):
    with pytest.raises(WeightsError, match="names the intra codec of 'codec-tiny' instead of holding one"):
        hub.push_folder(sharing, "team/codec", token="writer")
    assert server.requests == []


# Sources on this machine


def test_source_that_is_a_folder_gives_it(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    for source in (folder, str(folder), "weights", "./weights"):
        found = hub.resolve(source)
        assert found.path.resolve() == folder.resolve()
        assert found.origin == ("folder", str(folder.resolve()), None)


def test_bundled_source_gives_the_folder_in_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "BUNDLED", tmp_path / "bundled")
    path = make_folder(tmp_path / "bundled" / "codec-tiny")
    (tmp_path / "bundled" / "not-weights").mkdir()
    assert hub.bundled_names() == ["codec-tiny"]
    assert hub.resolve("codec-tiny") == (path, ("bundled", "codec-tiny", None))


def test_bundled_source_beside_a_folder_of_that_name_gives_the_folder_only_if_it_holds_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "BUNDLED", tmp_path / "bundled")
    make_folder(tmp_path / "bundled" / "codec-tiny")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "codec-tiny").mkdir()
    assert hub.resolve("codec-tiny").origin.kind == "bundled"
    make_folder(tmp_path / "codec-tiny")
    assert hub.resolve("codec-tiny").origin.kind == "folder"


def test_unknown_name_lists_the_nearest(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "BUNDLED", tmp_path)
    make_folder(tmp_path / "codec-tiny")
    make_folder(tmp_path / "other")
    with pytest.raises(WeightsError, match="no bundled weights are named 'codec-tny'; the nearest is 'codec-tiny'"):
        hub.resolve("codec-tny")


def test_folder_that_does_not_exist_is_named(tmp_path):
    for source in (tmp_path / "nowhere", "./nowhere", "a/b/c"):
        with pytest.raises(WeightsError, match=r"nowhere|a/b/c"):
            hub.resolve(source)


def test_folder_without_config_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"has no config\.json \(in .*: nothing\)"):
        hub.resolve(tmp_path)


@pytest.mark.parametrize("name", ["model.bin", "codec.pth", "last.ckpt", "codec.pth.tar"])
def test_folder_with_pickles_only_is_refused_with_the_command_to_convert(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        WeightsError, match=rf"pickled weights only \({name}\).*lvc-zoo convert <variant> {name} OUTDIR"
    ):
        hub.resolve(tmp_path)


def test_revision_for_a_source_that_has_none_is_refused(folder):
    with pytest.raises(ValueError, match="revision 'main' was given for folder weights"):
        hub.resolve(folder, revision="main")


# Sources on the Hub


def test_hub_source_by_name_gives_the_newest_commit_of_main(server, folder):
    server.add("team/codec", {"config.json": b"old"})
    commit = server.add("team/codec", {**files_of(folder), "video.mp4": b"not asked for"})
    found = hub.resolve("team/codec")
    assert found.origin == ("hub", "team/codec", commit)
    assert found.origin.text == f"team/codec@{commit}"
    assert files_of(found.path) == files_of(folder)
    assert_states_equal(hub.read_folder(found.path)[1], make_states())
    assert any(agent.startswith("lvc_zoo/") for agent in server.user_agents)


def test_hub_source_at_a_branch_or_commit_gives_that_commit(server, folder, tmp_path):
    newer = make_folder(tmp_path / "newer", seed=1)
    first = server.add("team/codec", files_of(folder))
    second = server.add("team/codec", files_of(newer))
    branch = server.add("team/codec", files_of(newer), branch="next")
    assert hub.resolve("team/codec").origin.commit == second
    assert hub.resolve("hf-hub:team/codec@next").origin.commit == branch
    assert hub.resolve("team/codec", revision="next").origin.commit == branch
    pinned = hub.resolve(f"team/codec@{first}")
    assert pinned.origin.commit == first
    assert_states_equal(hub.read_folder(pinned.path)[1], make_states(0))


def test_hub_source_with_two_revisions_is_refused():
    with pytest.raises(ValueError, match="'team/codec@next' and revision 'main' disagree"):
        hub.resolve("team/codec@next", revision="main")


def test_hub_source_with_prefix_skips_a_folder_of_that_name(server, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "team" / "codec")
    server.add("team/codec", files_of(folder))
    assert hub.resolve("team/codec").origin.kind == "folder"
    assert hub.resolve("hf-hub:team/codec").origin.kind == "hub"


def test_hub_source_in_the_cache_needs_no_request(server, folder):
    server.add("team/codec", files_of(folder))
    online = hub.resolve("team/codec")
    server.requests.clear()
    assert hub.resolve("team/codec", local_files_only=True) == online
    assert hub.resolve(online.origin.text, local_files_only=True) == online
    assert server.requests == []


def test_hub_source_not_in_the_cache_names_repo_revision_and_remedy(server, folder):
    server.add("team/codec", files_of(folder), branch="next")
    message = r"'team/codec' at revision 'next' is not .*`hf download team/codec --revision next`"
    with pytest.raises(WeightsError, match=f"(?s){message}"):
        hub.resolve("team/codec@next", local_files_only=True)
    assert server.requests == []


def test_hub_that_cannot_be_reached_names_the_remedy(server):
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(WeightsError, match=r"(?s)'team/codec' at its default revision.*`hf download team/codec`"):
        hub.resolve("team/codec")


def test_hub_repository_that_does_not_exist_is_named(server):
    with pytest.raises(WeightsError, match=r"'team/codex' does not exist, or is private.*hf auth login"):
        hub.resolve("team/codex")


def test_hub_revision_that_does_not_exist_is_named(server, folder):
    server.add("team/codec", files_of(folder))
    with pytest.raises(WeightsError, match="'team/codec' has no revision 'v9'; expected a branch"):
        hub.resolve("team/codec@v9")


def test_hub_repository_altered_after_writing_is_refused(server, folder, tmp_path):
    other = files_of(make_folder(tmp_path / "other", seed=1))
    server.add("team/codec", files_of(folder) | {"intra.safetensors": other["intra.safetensors"]})
    with pytest.raises(WeightsError, match=r"intra\.safetensors has sha256 \w{64}, expected \w{64}"):
        hub.read_folder(hub.resolve("team/codec").path)


@pytest.mark.parametrize("others", [{}, {"config.json": b"{}", "README.md": b"x"}], ids=["alone", "with config"])
def test_hub_repository_with_pickles_only_is_refused_and_not_downloaded(server, others):
    server.add("team/codec", {"codec.pth": b"pickle", **others})
    with pytest.raises(WeightsError, match=r"pickled weights only \(codec\.pth\).*lvc-zoo convert"):
        hub.resolve("team/codec")
    assert not any("pth" in request or "large" in request for request in server.requests)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own way to upload
def test_folder_pushed_and_pulled_is_equal(server, folder):
    source = hub.push_folder(folder, "team/fresh", private=True, commit_message="First", token="writer")
    assert server.private["team/fresh"]
    found = hub.resolve(source)
    assert found.origin == ("hub", "team/fresh", server.branches["team/fresh"]["main"])
    assert found.origin.text == source
    assert files_of(found.path) == files_of(folder)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own way to upload
def test_pictures_are_pushed_with_the_card_that_shows_them(server, folder, tmp_path):
    picture = tmp_path / "curve.png"
    picture.write_bytes(b"\x89PNG")
    hub.write_folder(folder, CONFIG, make_states(), hub.model_card(CONFIG | {"pictures": ["curve.png"]}), [picture])
    hub.push_folder(folder, "team/codec", token="writer")
    assert server.find("team/codec", "main")[1]["curve.png"] == b"\x89PNG"
    found = hub.resolve("team/codec").path  # weights alone are fetched, and may be published again
    assert not (found / "curve.png").exists()
    hub.push_folder(found, "team/again", token="writer")


@pytest.mark.parametrize("pictures", ["a.png", ["../secret.png"], ["..\\secret.png"], ["key.txt"], [1], {}])
def test_names_of_anything_but_pictures_in_the_folder_are_refused_before_a_push(server, folder, pictures):
    edit_config(folder, pictures=pictures)
    with pytest.raises(WeightsError, match=r"has 'pictures'.*expected names of PNG files in the folder"):
        hub.push_folder(folder, "team/codec", token="writer")
    assert server.requests == []


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own way to upload
def test_folder_pushed_over_another_is_one_commit_without_stale_weights(server, folder):
    hub.push_folder(folder, "team/codec", token="writer")
    hub.write_folder(folder, CONFIG, {"intra": make_states(1)["intra"]}, "---\nlicense: mit\n---\n")
    hub.push_folder(folder, "team/codec", token="writer")
    assert len(server.commits["team/codec"]) == 3  # made empty, then two pushes
    assert server.find("team/codec", "main")[1].keys() - {".gitattributes"} == set(files_of(folder))
    assert_states_equal(hub.read_folder(hub.resolve("team/codec").path)[1], {"intra": make_states(1)["intra"]})


def test_folder_that_is_damaged_is_not_pushed(server, folder):
    (folder / "inter.safetensors").unlink()
    with pytest.raises(WeightsError, match="missing"):
        hub.push_folder(folder, "team/codec", token="writer")
    assert server.requests == []


def test_fresh_process_in_offline_mode_takes_the_cache(server, folder, tmp_path):
    commit = server.add("team/codec", files_of(folder))
    code = (
        "import sys; from lvc_zoo import hub; from lvc_zoo.errors import WeightsError\n"
        "try: print(hub.resolve(sys.argv[1]).origin.text)\n"
        "except WeightsError as error: print(error)\n"
    )
    settings = {
        "HF_ENDPOINT": server.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(Path(hub.__file__).parents[1]),
    }
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}

    def run(source: str, **extra: str) -> str:
        command = [sys.executable, "-c", code, source]
        environment = inherited | settings | extra
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout

    assert run("team/codec") == f"team/codec@{commit}\n"
    server.requests.clear()
    assert run("team/codec", HF_HUB_OFFLINE="1") == f"team/codec@{commit}\n"
    assert "`hf download team/codec --revision next`" in run("team/codec@next", HF_HUB_OFFLINE="1")
    assert server.requests == []


# Cards and digests


def test_model_card_metadata_is_read_by_the_hub_client():
    card = ModelCard(hub.model_card(CONFIG, [{"q": 0, "psnr_db": 30.5}, {"q": 21, "bpp": 0.1}]))
    assert card.data.library_name == "lvc_zoo"
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "video-to-video"
    assert "codec" in card.data.tags
    assert "| q | psnr_db | bpp |\n| --- | --- | --- |\n| 0 | 30.5 |  |\n| 21 |  | 0.1 |\n" in card.text
    assert json.loads(card.text.split("```json\n")[1].split("```")[0]) == CONFIG


def test_model_card_tells_each_run_on_a_line():
    runs = [{"task": "IntraTask", "steps": 5, "seeds": [1, 2], "stages": [{"steps": 5}], "intra": None}, "by hand"]
    card = hub.model_card(CONFIG | {"metadata": {"training": runs, "licence": "CC0"}})
    assert "\n1. task: IntraTask; steps: 5; seeds: [1, 2]\n2. by hand\n" in card
    shown = json.loads(card.split("```json\n")[1].split("```")[0])
    assert shown == CONFIG | {"metadata": {"licence": "CC0"}}


def test_state_digest_of_a_known_state_equals_a_hash_by_hand():
    state = {"b": torch.tensor([[1, 2]], dtype=torch.int16), "a": torch.tensor(1.0)}
    by_hand = b'["a", "float32", []]' + struct.pack("<f", 1) + b'["b", "int16", [1, 2]]' + struct.pack("<hh", 1, 2)
    assert hub.state_digest(state) == hashlib.sha256(by_hand).hexdigest()


def test_state_digest_ignores_order_layout_and_gradients():
    weight = make_states()["intra"]["conv.weight"]
    channels_last = weight.to(memory_format=torch.channels_last).requires_grad_()
    state, same = {"a": weight, "b": weight[0]}, {"b": weight[0].clone(), "a": channels_last}
    assert hub.state_digest(state) == hub.state_digest(same)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {"renamed": state["w"]},
        lambda state: {"w": state["w"].reshape(3, 2)},
        lambda state: {"w": state["w"].view(torch.int32)},
        lambda state: {"w": state["w"] + 1},
        lambda state: {**state, "empty": torch.zeros(0)},
    ],
    ids=["name", "shape", "dtype", "value", "entry"],
)
def test_state_digest_of_a_changed_state_differs(change):
    state = {"w": torch.arange(6.0).reshape(2, 3)}
    assert hub.state_digest(change(state)) != hub.state_digest(state)
