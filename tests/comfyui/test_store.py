"""The loaders in a running ComfyUI: what they list, what they fetch, and that they connect to nobody when nothing is missing."""

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from tests.helpers.graphs import PORTRAIT, Record, find, node, talking_portrait, write_wav
from tests.helpers.hub_server import HubServer, Slow
from tests.helpers.in_comfyui import found_by
from tools.comfyui_server import ComfyUIServer, ServerError, copy_pack

NET = "diffusion_pytorch_model.safetensors"
LARGE = f"diffusion_net/{NET}"


def load(kind: str, **inputs) -> dict:
    return {"load": node(kind, **inputs), "end": node("PreviewAny", source=["load", 0])}


def options(server, kind: str, name: str) -> list[str]:
    return server.get(f"/object_info/{kind}")[kind]["input"]["required"][name][1]["options"]


@pytest.fixture
def models(comfyui_server):
    """The server's own `models/memo`, emptied after the test."""
    folder = comfyui_server.base / "models" / "memo"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder)


def test_only_what_can_be_loaded_is_listed(comfyui_server, tiny_models, models):
    before = options(comfyui_server, "MemoLoadModel", "model")
    assert before == ["tiny", "memo"]
    _, bad = (Path(shutil.copytree(tiny_models / "memo/tiny", models / name)) for name in ("good", "bad"))
    os.truncate(bad / LARGE, 1000)
    assert options(comfyui_server, "MemoLoadModel", "model") == ["tiny", "good", "memo"]
    assert options(comfyui_server, "MemoLoadFaceAnalysis", "face_analysis")[-3:] == ["bad", "good", "memo"]

    with pytest.raises(ServerError, match="bad/diffusion_net/diffusion_pytorch_model.safetensors cannot be read as model weights"):
        comfyui_server.run(load("MemoLoadModel", model="bad"))
    with pytest.raises(ServerError, match=r"'other' is not among the models that were found \(tiny, good\)"):
        comfyui_server.run(load("MemoLoadModel", model="other"))
    assert comfyui_server.run(load("MemoLoadModel", model="good"))
    shutil.copy(tiny_models / "memo/tiny" / LARGE, bad / LARGE)
    assert options(comfyui_server, "MemoLoadModel", "model") == ["tiny", "bad", "good", "memo"]


def test_the_only_other_model_stands_in_and_the_node_says_so(comfyui_server):
    record = Record()
    assert comfyui_server.run(load("MemoLoadVocalSeparator", vocal_separator="memo"), record)
    assert record.texts == ["Vocal separation: 'memo' is not there, 'tiny' is used instead."]


@pytest.fixture(scope="module")
def hub(tiny_models):
    with HubServer({"memoavatar/memo": tiny_models / "memo" / "tiny"}) as server:
        yield server


@pytest.fixture(scope="module")
def bare_server(comfyui_path, hub, tmp_path_factory):
    """A ComfyUI without models, whose hub is ours."""
    base = tmp_path_factory.mktemp("bare")
    (base / "custom_nodes").mkdir()
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(base / "hf")}
    with ComfyUIServer(comfyui_path, base, environment=environment) as server:
        yield server


MEMO = load("MemoLoadModel", model="memo", download=True)


def test_download_is_off_by_default_and_then_nothing_is_asked(bare_server, hub):
    assert options(bare_server, "MemoLoadModel", "model") == ["memo"]
    with pytest.raises(ServerError, match="The set of MEMO's four nets is not there: switch on download"):
        bare_server.run(load("MemoLoadModel", model="memo"))
    assert not hub.requests and not (bare_server.base / "models" / "memo").exists()


def test_load_all_says_all_that_is_missing_at_once(bare_server):
    names = {"model": "memo", "vae": "sd-vae-ft-mse.safetensors", "audio_encoder": "wav2vec2-base-960h", "emotion2vec": "emotion2vec_plus_large"}
    names |= dict.fromkeys(("classifier", "vocal_separator", "face_analysis"), "memo")
    with pytest.raises(ServerError) as error:
        bare_server.run(load("MemoLoadAll", **names))
    assert "7 models are not there" in str(error.value) and "Switch on download (13.4 GB)" in str(error.value)
    assert str(error.value).count(str(bare_server.base)) >= 17, "each file with its place"


def test_cancel_keeps_what_came_and_the_next_run_continues(bare_server, hub, tiny_models):
    hub.faults[LARGE] = [Slow(2_000_000)]
    folder = bare_server.base / "models" / "memo" / "memo" / "diffusion_net"

    def cancel():
        while not list(folder.glob(".downloads/*.partial")):
            time.sleep(0.05)
        bare_server.interrupt()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(ServerError, match="execution interrupted in MemoLoadModel"):
        bare_server.run(MEMO)
    thread.join()
    assert not (folder / NET).exists()

    record = Record()
    bare_server.run(MEMO, record)
    assert (folder / NET).read_bytes() == (tiny_models / "memo" / "tiny" / LARGE).read_bytes()
    done = [value for value, _ in record.progress["load"]]
    assert done == sorted(done) and record.progress["load"][-1][0] == record.progress["load"][-1][1] > 10_000_000


def test_what_is_there_is_not_asked_for_again(bare_server, hub):
    bare_server.run(MEMO)  # also where this test runs alone
    hub.requests.clear()
    folder = bare_server.base / "models" / "memo" / "memo"
    os.utime(folder / LARGE)
    bare_server.run(MEMO)
    assert not hub.requests and options(bare_server, "MemoLoadModel", "model") == ["memo"]


def test_what_was_fetched_is_not_loaded_again(bare_server, hub):
    shutil.rmtree(bare_server.base / "models" / "memo", ignore_errors=True)
    graph = load("MemoLoadModel", model="memo", download=True, weight_dtype="fp32")  # no other run's
    fetching, next_run, replaced = Record(), Record(), Record()
    bare_server.run(graph, fetching)
    assert hub.requests and "load" in fetching.executed
    bare_server.run(graph, next_run)
    assert "load" in next_run.cached and "load" not in next_run.executed
    os.utime(bare_server.base / "models" / "memo" / "memo" / LARGE)
    bare_server.run(graph, replaced)
    assert "load" in replaced.executed


def test_a_broken_file_is_fetched_again_alone(bare_server, hub):
    bare_server.run(MEMO)
    hub.requests.clear()
    file = bare_server.base / "models/memo/memo/audio_proj" / NET
    os.truncate(file, 500)
    with pytest.raises(ServerError, match=f"fetch by hand, from https://huggingface.co/memoavatar/memo: {file}"):
        bare_server.run(load("MemoLoadModel", model="memo"))
    bare_server.run(MEMO)
    asked = {path.partition("/resolve/")[2] for _, path, _ in hub.requests if "/resolve/" in path}
    assert {path.partition("/")[2] for path in asked} == {f"audio_proj/{NET}"}, "after the revision"


def test_with_all_files_present_nobody_is_called(comfyui_path, tiny_models, tmp_path):
    """Import, /object_info and a run of the whole workflow, with every attempt to connect recorded and refused."""
    base, calls = tmp_path / "base", tmp_path / "calls"
    (base / "custom_nodes").mkdir(parents=True)
    guard = {"PYTHONPATH": str(Path(__file__).resolve().parents[1] / "helpers" / "no_network"), "MEMO_CALLS": str(calls)}
    with ComfyUIServer(comfyui_path, base, tiny_models, environment=guard) as server:
        assert options(server, "MemoLoadModel", "model") == ["tiny", "memo"]
        voice = server.add_input(write_wav(tmp_path / "voice.wav", 4000, 16000))
        inputs = {"LoadImage": {"image": server.add_input(PORTRAIT)}, "LoadAudio": {"audio": voice}, "PrimitiveBoolean": {"value": True}}
        prompt = talking_portrait(**inputs)
        assert prompt[find(prompt, "MemoLoadModel")]["inputs"]["download"] == [find(prompt, "PrimitiveBoolean"), 0]
        assert server.run(prompt)
        assert "guarded" in calls.read_text()
    assert calls.read_text().splitlines() == ["guarded"]


@pytest.fixture(scope="module")
def loaded(comfyui_path, tiny_models, tmp_path_factory) -> dict:
    """What load_nets.py found of each weight_dtype."""
    pack = tmp_path_factory.mktemp("loaded") / "pack"
    copy_pack(pack)
    return found_by("load_nets.py", comfyui_path, pack, tiny_models / "memo" / "tiny")


@pytest.mark.parametrize(
    ("weight_dtype", "dtypes", "least", "most"),
    [
        ("bf16", ["bfloat16"], 1e-3, 0.05),
        ("fp16", ["float16"], 0, 1e-4),  # as in the file
        ("fp32", ["float32"], 0, 1e-4),
        ("fp8_e4m3fn", ["float32", "float8_e4m3fn"], 1e-2, 0.2),
        ("fp8_e4m3fn_scaled", ["float32", "float8_e4m3fn"], 1e-2, 0.1),
        ("int8_scaled", ["float32", "int8"], 1e-2, 0.06),
    ],
)
def test_weights_of_any_dtype_compute_alike(loaded, weight_dtype, dtypes, least, most):
    """Differences as a share of the root mean square."""
    found = loaded[weight_dtype]
    assert found["dtypes"] == dtypes and found["computes_in"] == "float32"
    assert least <= found["difference"] <= most


def test_a_scale_for_each_row_brings_8_bits_nearer(loaded):
    assert loaded["int8_scaled"]["difference"] < loaded["fp8_e4m3fn_scaled"]["difference"] < loaded["fp8_e4m3fn"]["difference"]


def test_convolutions_of_few_positions_are_matmuls_of_what_comfyui_casts(loaded):
    counts = {found["matmuls"] for name, found in loaded.items() if "matmuls" in found}
    assert len(counts) == 1 and counts.pop() > 0, "on the CPU, whatever the weights are stored in"


@pytest.mark.parametrize("weight_dtype", ["bf16", "fp32", "int8_scaled"])
def test_channels_last_as_a_card_has_them_compute_alike(loaded, weight_dtype):
    """Also with weights that ComfyUI casts, which it lends to what is made of a layer."""
    found = loaded[f"{weight_dtype}, channels last"]
    assert found["difference"] == pytest.approx(loaded[weight_dtype]["difference"], abs=1e-4)
    assert found["pointwise"] > 0
    assert found["norms"] == loaded["fp32, channels last"]["norms"] > 0


def test_layers_that_get_their_parameters_late_load_too(loaded):
    assert {found["loads_late"] for found in loaded.values() if "loads_late" in found} in ({True}, {None})


def test_a_dtype_that_the_device_does_not_know_is_refused(loaded):
    assert loaded["refused"] == "weight_dtype: this device (cpu) does not support fp8_e4m3fn. Choose int8_scaled or auto."


def test_the_vae_is_given_few_pictures_at_a_time(loaded):
    assert loaded["vae"] == [[2, 2, 1, 2, 1], [[5, 4, 2, 1], [3, 3, 16, 8]]]


def test_on_windows_what_others_hold_of_a_gpu_is_no_room(loaded):
    assert loaded["adapter"]["room"] == [90, 70]


def test_without_bfloat16_what_layers_add_up_may_be_float32(loaded):
    assert loaded["adapter"]["stream"] == ["None", "torch.float32"]


def test_a_copy_in_bfloat16_is_kept_after_a_download_and_originals_only_deleted_when_asked(loaded):
    copy, original = "diffusion_pytorch_model.bf16.safetensors", "diffusion_pytorch_model.safetensors"
    assert loaded["kept"] == [[original], [copy, original], [copy]]


def test_a_sampler_is_told_from_others_in_every_process(loaded):
    names = loaded["adapter"]["sampler"]
    assert len(names) == 8 == len(set(names)), "functions, what they hold, their defaults, what they are methods of"
    assert not any("0x" in name for name in names)


def test_memory_that_ran_out_is_told_from_other_errors(loaded):
    assert loaded["adapter"]["out of memory"] == [True, True, True, False]


def test_what_is_compiled_is_not_streamed_by_itself(loaded):
    assert loaded["adapter"].get("streams", [True, False]) == [True, False]


def test_a_mac_computes_in_bfloat16_where_comfyui_says_that_it_works(loaded):
    assert loaded["adapter"]["apple"] == ["torch.bfloat16", "torch.float32"], "and never in float16"


def test_fast_products_in_eight_bits_are_for_weights_in_eight_bits(loaded):
    """Or all weights would be cast at each use, and none of what is compiled could run."""
    assert loaded["adapter"]["fast"] == [False, True]


def test_heads_that_sage_attention_refuses_are_computed_exactly(loaded):
    """It takes 128 channels at most."""
    assert loaded["adapter"]["attention"] == [{}, {}, {"low_precision_attention": False}]
