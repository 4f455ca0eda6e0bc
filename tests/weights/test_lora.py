"""Files of low-rank factors: what is read, what is refused, and what they make of weights."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from memo_modules.errors import CheckpointError
from memo_modules.weights.lora import Factors, Lora, named_lora, read_lora, with_loras, write_lora
from scripts import convert
from tests.helpers.random_lora import write_random_lora

LAYER = "diffusion_net.a.to_q"


def factors(rank: int = 2, alpha: float = 1.0) -> Factors:
    generator = torch.Generator().manual_seed(0)
    return Factors(torch.randn(6, rank, generator=generator), torch.randn(rank, 4, generator=generator), alpha)


def test_a_file_holds_what_was_written_under_the_names_that_loaders_know(tmp_path):
    path, held = tmp_path / "x.safetensors", factors()
    write_lora(path, {LAYER: held})
    tensors = load_file(path)
    assert tensors.keys() == {f"{LAYER}.lora_up.weight", f"{LAYER}.lora_down.weight", f"{LAYER}.alpha"}
    read = read_lora(path).nets["diffusion_net"]["a.to_q"]
    assert torch.equal(read.up, held.up) and torch.equal(read.down, held.down) and read.alpha == 1.0


def test_names_of_peft_are_read_and_alpha_is_the_rank_without_one(tmp_path):
    held = factors()
    save_file({f"{LAYER}.lora_B.weight": held.up, f"{LAYER}.lora_A.weight": held.down}, tmp_path / "x.safetensors")
    read = read_lora(tmp_path / "x.safetensors").nets["diffusion_net"]["a.to_q"]
    torch.testing.assert_close(read.change(), held.up @ held.down)


def test_what_is_added_is_the_product_times_alpha_by_rank_times_strength(tmp_path):
    held = factors(alpha=3.0)
    lora = Lora(tmp_path, {"diffusion_net": {"a.to_q": held, "b": Factors(held.up[:, :, None, None], held.down[:, :, None, None], 3.0)}})
    weights = {"a.to_q.weight": torch.ones(6, 4, dtype=torch.bfloat16), "b.weight": torch.ones(6, 4, 1, 1), "c": torch.ones(1)}
    merged = with_loras([(lora, 0.5), (lora, -2.0)], "diffusion_net", weights)
    expected = 1 - 1.5 * 3 / 2 * (held.up @ held.down)
    torch.testing.assert_close(merged["a.to_q.weight"], expected)
    torch.testing.assert_close(merged["b.weight"], expected[:, :, None, None])
    assert merged["c"] is weights["c"] and with_loras([(lora, 1.0)], "reference_net", weights) == weights


BAD = {
    "another model's": ({"lora_unet_x.lora_up.weight": torch.ones(2, 2)}, "is no LoRA of MEMO: it holds 'lora_unet_x.lora_up.weight'"),
    "whole weights": ({"diffusion_net.a.weight": torch.ones(2, 2)}, "is no LoRA of MEMO: it holds 'diffusion_net.a.weight'"),
    "a net alone": ({"diffusion_net.lora_up.weight": torch.ones(2, 2)}, "is no LoRA of MEMO"),
    "half of it": ({f"{LAYER}.lora_up.weight": torch.ones(2, 2)}, f"'{LAYER}' has no lora_down.weight"),
    "ranks that differ": (
        {f"{LAYER}.lora_up.weight": torch.ones(2, 3), f"{LAYER}.lora_down.weight": torch.ones(2, 2)},
        r"factors of \[2, 3\] and \[2, 2\], which cannot be multiplied",
    ),
    "no numbers": ({f"{LAYER}.lora_up.weight": torch.ones(2, 2, dtype=torch.int64)}, "is of int64"),
    "an alpha that is none": (
        {f"{LAYER}.lora_up.weight": torch.ones(2, 2), f"{LAYER}.lora_down.weight": torch.ones(2, 2), f"{LAYER}.alpha": torch.tensor(float("nan"))},
        "expected a number as alpha",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_lora_of_these_nets_is_refused(tmp_path, kind):
    tensors, words = BAD[kind]
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=words):
        read_lora(tmp_path / "x.safetensors")


def test_pickles_and_missing_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected a LoRA as a \.safetensors file"):
        read_lora(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="is missing"):
        read_lora(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("shapes", "words"), [({}, "is no layer of this model"), ({"a.to_q.weight": (6, 5)}, "changes 6 x 4 numbers, this model has 6 x 5")]
)
def test_a_lora_of_another_size_of_model_is_refused(tmp_path, shapes, words):
    with pytest.raises(CheckpointError, match=words):
        Lora(tmp_path / "x", {"diffusion_net": {"a.to_q": factors()}}).check_fits("diffusion_net", shapes)


def test_a_strength_may_follow_the_name(tmp_path):
    path = tmp_path / "x.safetensors"
    write_lora(path, {LAYER: factors()})
    assert [named_lora(text)[1] for text in (str(path), f"{path}:0.5", f"{path}:-2")] == [1.0, 0.5, -2.0]
    for text in (f"{path}:nan", ":1"):
        with pytest.raises(CheckpointError, match="expected FILE or FILE:STRENGTH"):
            named_lora(text)
    with pytest.raises(CheckpointError, match=r"C:\\x\.safetensors is missing"):
        named_lora(r"C:\x.safetensors")


def test_merging_changes_what_the_lora_names_and_nothing_else(tiny_models, tmp_path, capsys):
    tiny = tiny_models / "memo" / "tiny"
    path = write_random_lora(tmp_path / "x.safetensors", tiny)
    convert.main([*map(str, (tiny, tmp_path / "plain.safetensors"))])
    convert.main([*map(str, (tiny, tmp_path / "merged.safetensors", "--lora", f"{path}:0.5"))])
    plain, merged, lora = load_file(tmp_path / "plain.safetensors"), load_file(tmp_path / "merged.safetensors"), read_lora(path)
    named = {f"{net}.{layer}.weight" for net, layers in lora.nets.items() for layer in layers}
    changed = {key for key, tensor in merged.items() if not torch.equal(tensor, plain[key])}
    assert plain.keys() == merged.keys() and changed <= named and len(changed) > 0.9 * len(named)
    assert {key: tensor.dtype for key, tensor in merged.items()} == {key: tensor.dtype for key, tensor in plain.items()}
    convert.main([*map(str, (tmp_path / "plain.safetensors", tmp_path / "folder", "--lora", f"{path}:0.5"))])
    weights = load_file(tmp_path / "folder" / "diffusion_net" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor, merged[f"diffusion_net.{key}"]) for key, tensor in weights.items())
