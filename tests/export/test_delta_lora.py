"""Deltas and LoRAs: what they give back, where they load, what they say they lost, and every refusal."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_unet_state_dict_to_peft
from helpers.fits import fit_checkpoint
from helpers.paths import DATA
from helpers.stand_ins import Latents
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lightning_drift.common.errors import UserError
from lightning_drift.common.rng import generator
from lightning_drift.dreams.dreamer import Dreamer
from lightning_drift.export.command import export, main
from lightning_drift.export.exported import Exported
from lightning_drift.export.lora import factors
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.stable_diffusion.interpolation import base_of, interpolated
from lightning_drift.stable_diffusion.loading import load_opened, load_stable_diffusion, open_pipeline
from lightning_drift.stable_diffusion.opened_pipeline import PARTS, TRAINED

TINY = str(DATA / "tiny_sd")


def moved(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """A fine-tune's small full-rank change, another in each weight."""
    return tensor + 1e-3 * torch.randn(tensor.shape, generator=generator(0, key))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: Any) -> Path:
    return fit_checkpoint(tmp_path_factory.mktemp("fit") / "step=01200.ckpt", TINY, moved)


@pytest.fixture(scope="module")
def delta(checkpoint: Path) -> Exported:
    return export(str(checkpoint), str(checkpoint.parent / "x.delta.safetensors"), "delta", base=TINY)


@pytest.fixture(scope="module")
def full_lora(checkpoint: Path) -> Exported:
    return export(str(checkpoint), str(checkpoint.parent / "x.lora.safetensors"), "lora", rank=10**6)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {f"{p}.{k}": t for p in PARTS for k, t in getattr(model, p).state_dict().items()}


def entry(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["lightning_drift.change"])
        return found


# -- delta --


def test_a_delta_and_its_base_give_the_checkpoint_back(checkpoint: Path, delta: Exported) -> None:
    tuned, given = (
        weights(load_stable_diffusion(str(checkpoint))),
        load_stable_diffusion(str(delta.path), base=TINY),
    )
    assert given.recipe is not None
    assert given.recipe["base"] == "tiny_sd"
    assert (given.step, given.hash) == (1200, delta.hash)
    assert weights(given).keys() == tuned.keys()
    for key, tensor in weights(given).items():
        apart, rounding = (tensor - tuned[key]).abs(), (tuned[key].half().float() - tuned[key]).abs()
        assert apart.max() <= rounding.max(), key
        if key.startswith("vae."):
            assert torch.equal(tensor, tuned[key])
        elif tensor.numel() > 1000:
            assert apart.norm() < 0.2 * rounding.norm(), key  # nearer than a float16 copy


def test_a_delta_names_its_base_and_how_to_apply_it(checkpoint: Path, delta: Exported) -> None:
    found = entry(delta.path)
    assert (found["form"], found["base"]) == ("delta", "tiny_sd")
    assert found["base_hash"] == load_stable_diffusion(TINY).hash
    assert found["apply"].startswith("W = W0 + delta, in float32")
    # Applied by hand as it says, without this package's loader.
    tensors, base = load_file(delta.path), weights(load_stable_diffusion(TINY))
    given = weights(load_stable_diffusion(str(delta.path), base=TINY))
    assert all(torch.equal(given[key], base[key] + tensor.float()) for key, tensor in tensors.items())
    with safe_open(delta.path, "pt") as file:
        assert file.metadata()["modelspec.architecture"] == "stable-diffusion-v1/other-shape/delta"
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118


def test_what_did_not_change_is_not_in_the_delta(tmp_path: Path) -> None:
    def frozen(key: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if key.startswith("text_encoder.") else moved(key, tensor)

    done = export(str(fit_checkpoint(tmp_path / "a.ckpt", TINY, frozen)), str(tmp_path / "o"), "delta")
    assert done.path.name == "a-step01200.delta.safetensors"
    assert {key.partition(".")[0] for key in load_file(done.path)} == {"unet"}
    given, base = (weights(load_stable_diffusion(str(p), base=TINY)) for p in (done.path, TINY))
    assert all(torch.equal(given[key], base[key]) for key in base if not key.startswith("unet."))


def test_a_delta_loads_wherever_a_pipeline_does(
    checkpoint: Path, delta: Exported, tmp_path: Path, trainer: Any
) -> None:
    dreamer = Dreamer(str(delta.path), base=TINY, drift=0.5)
    dreamer.configure_model()
    found = open_pipeline(str(checkpoint))
    half = load_opened(interpolated(found, base_of(found), 0.5))
    assert dreamer.stable_diffusion is not None
    for key, tensor in weights(dreamer.stable_diffusion).items():
        torch.testing.assert_close(tensor, weights(half)[key], rtol=0, atol=2e-6)
    whole = export(str(delta.path), str(tmp_path), base=TINY)
    exact = weights(load_stable_diffusion(str(checkpoint)))
    for key, tensor in weights(load_stable_diffusion(str(whole.path))).items():
        torch.testing.assert_close(tensor, exact[key], rtol=1e-3, atol=4e-6)
    # A fit goes on from it, and records it as its base.
    module = DreamBooth(str(delta.path), base=TINY)
    trainer(max_steps=1).fit(module, datamodule=Latents())
    assert module.recipe()["base"] == str(delta.path.resolve())


def test_the_base_is_found_beside_the_file_and_known_in_another_precision(
    delta: Exported, tmp_path: Path
) -> None:
    copy = tmp_path / "x.delta.safetensors"
    copy.write_bytes(delta.path.read_bytes())
    with pytest.raises(UserError, match="fine-tuned from tiny_sd, which it needs, but"):
        load_stable_diffusion(str(copy))
    export(TINY, str(tmp_path / "tiny_sd"), "diffusers")  # rounded to half precision: another hash
    given = weights(load_stable_diffusion(str(copy)))
    exact = weights(load_stable_diffusion(str(delta.path), base=TINY))
    for key, tensor in given.items():
        torch.testing.assert_close(tensor, exact[key], rtol=1e-3, atol=4e-6)


def test_another_base_is_refused(checkpoint: Path, delta: Exported, full_lora: Exported) -> None:
    for done in (delta, full_lora):
        with pytest.raises(UserError, match=r"was made from tiny_sd .* is another model"):
            load_stable_diffusion(str(done.path), base="pocket")
        with pytest.raises(UserError, match=r"was made from tiny_sd .* is another model"):
            load_stable_diffusion(str(done.path), base=str(checkpoint))  # the same shape, 1e-3 away


def test_a_base_that_differs_beyond_the_first_taps_is_another(delta: Exported, tmp_path: Path) -> None:
    def beyond_the_first_tap(key: str, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim != 4 or tensor.shape[-1] != 3:
            return tensor
        other = tensor * 1.05
        other[:, :, 0, 0] = tensor[:, :, 0, 0]
        return other

    other = fit_checkpoint(tmp_path / "run" / "other.ckpt", TINY, beyond_the_first_tap)
    with pytest.raises(UserError, match="is another model"):
        load_stable_diffusion(str(delta.path), base=str(other))


@pytest.mark.parametrize(
    "text", ["{", '{"form": "delta"}', '{"form": "x", "base": "b", "base_hash": "", "base_sample": []}']
)
def test_a_damaged_entry_is_named(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"lightning_drift.change": text})
    with pytest.raises(
        UserError, match=r"the lightning_drift\.change entry in the metadata of .* is damaged"
    ):
        load_stable_diffusion(str(tmp_path / "a.safetensors"), base=TINY)


def test_weights_that_do_not_fit_are_named(delta: Exported, full_lora: Exported, tmp_path: Path) -> None:
    def rewritten(done: Exported, **change: Any) -> str:
        with safe_open(done.path, "pt") as file:
            metadata = file.metadata()
        tensors = {**load_file(done.path), **change}
        kept = {key: tensor for key, tensor in tensors.items() if tensor is not None}
        save_file(kept, tmp_path / "b.safetensors", metadata)
        return str(tmp_path / "b.safetensors")

    with pytest.raises(UserError, match=r"stray or missing unet\.nowhere\.weight"):
        load_stable_diffusion(rewritten(delta, **{"unet.nowhere.weight": torch.zeros(1)}), base=TINY)
    with pytest.raises(UserError, match=r"unet\.conv_in\.weight does not fit the base"):
        load_stable_diffusion(rewritten(delta, **{"unet.conv_in.weight": torch.zeros(1)}), base=TINY)
    with pytest.raises(UserError, match=r"stray or missing lora_unet_conv_in\.alpha"):
        load_stable_diffusion(rewritten(full_lora, **{"lora_unet_conv_in.alpha": None}), base=TINY)
    with pytest.raises(UserError, match=r"lora_unet_conv_in\.lora_up\.weight does not fit"):
        load_stable_diffusion(
            rewritten(full_lora, **{"lora_unet_conv_in.lora_down.weight": torch.zeros(2, 4, 3, 3)}), base=TINY
        )


# -- LoRA --


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (12, 5, 3, 3), (40, 3, 1, 1)])
def test_the_factors_are_the_truncated_singular_value_decomposition(shape: tuple[int, ...]) -> None:
    change = torch.randn(shape, generator=generator(0, "change"))
    values = torch.linalg.svdvals(change.flatten(1).double())
    for rank in (1, 5, 12, 100):
        up, down = factors(change, rank)
        kept = min(rank, len(values))
        assert up.shape == (shape[0], kept, *(1,) * (len(shape) - 2))
        assert down.shape == (kept, *shape[1:])
        error = (change.flatten(1).double() - up.flatten(1) @ down.flatten(1)).norm()
        assert error == pytest.approx(values[kept:].norm().item(), abs=1e-9)  # Eckart and Young
        assert up.norm().item() == pytest.approx(down.norm().item())  # both of one size


def test_a_change_of_low_rank_is_kept_whole_and_finite_at_full_rank() -> None:
    source = generator(0, "low")
    change = torch.randn(20, 2, generator=source) @ torch.randn(2, 9, generator=source) * 1e-4
    for rank in (2, 9):
        up, down = (factor.half().float() for factor in factors(change, rank))
        assert ((up @ down - change).norm() / change.norm()).item() < 1e-3
        assert up.isfinite().all()
        assert down.isfinite().all()


def test_a_full_rank_lora_reproduces_linear_and_convolution_layers(
    checkpoint: Path, full_lora: Exported
) -> None:
    tuned, base, given = (
        load_stable_diffusion(*args)
        for args in ((str(checkpoint),), (TINY,), (str(full_lora.path), None, TINY))
    )
    layers = 0
    for part in TRAINED:
        for name, module in getattr(given, part).named_modules():
            if not isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                continue
            target, start = (getattr(m, part).get_submodule(name) for m in (tuned, base))
            error = (module.weight - target.weight).norm()
            assert error / target.weight.norm() < 1e-4
            assert error / (target.weight - start.weight).norm() < 1e-3  # what float16 loses of the change
            layers += 1
            if module.bias is not None:
                assert torch.equal(module.bias, start.bias)
    assert layers > 100


def test_the_layout_is_kohyas_with_locon_convolutions(full_lora: Exported, checkpoint: Path) -> None:
    lora = load_file(full_lora.path)
    down = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    unet = load_stable_diffusion(TINY).unet
    width = unet.conv_in.out_channels
    shapes = {
        f"lora_unet_{down}.lora_down.weight": (width, width),
        f"lora_unet_{down}.lora_up.weight": (width, width),
        f"lora_unet_{down}.alpha": (),
        "lora_unet_conv_in.lora_down.weight": (width, 4, 3, 3),
        "lora_unet_conv_in.lora_up.weight": (width, width, 1, 1),
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (width, width, 1, 1),
    }
    assert {key: tuple(lora[key].shape) for key in shapes} == shapes
    assert any(key.startswith("lora_te_text_model_encoder_layers_0_self_attn_q_proj.") for key in lora)
    assert any(key.startswith("lora_te_text_model_encoder_layers_0_mlp_fc1.") for key in lora)
    # One alpha for all layers, the largest rank, whatever a layer's own.
    alphas = {tensor.item() for key, tensor in lora.items() if key.endswith(".alpha")}
    assert alphas == {max(len(tensor) for key, tensor in lora.items() if key.endswith(".lora_down.weight"))}
    with safe_open(full_lora.path, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_module"] == "networks.lora"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/other-shape/lora"


def test_a_rank_beyond_the_largest_layer_is_told_as_it_is(tmp_path: Path) -> None:
    tuned = fit_checkpoint(tmp_path / "a.ckpt", "pocket", moved)
    done = export(str(tuned), str(tmp_path / "o"), "lora", rank=512, measure=False)
    lora = load_file(done.path)
    alphas = {tensor.item() for key, tensor in lora.items() if key.endswith(".alpha")}
    assert alphas == {max(len(tensor) for key, tensor in lora.items() if key.endswith(".lora_down.weight"))}
    (alpha,) = alphas
    assert alpha < 512
    with safe_open(done.path, "pt") as file:
        metadata = file.metadata()
    assert float(metadata["ss_network_alpha"]) == float(metadata["ss_network_dim"]) == alpha


def blocks(done: Exported) -> dict[str, list[float | None]]:
    """The printed table, in per cent."""
    rows = [line.split() for line in done.report.splitlines() if line.startswith(("unet", "text_encoder"))]
    return {row[0]: [None if c == "-" else float(c.rstrip("%")) for c in row[1:]] for row in rows}


def test_more_rank_loses_less_in_every_block_and_it_is_said(checkpoint: Path, tmp_path: Path) -> None:
    tables = []
    for rank in (1, 4, 16):
        done = export(str(checkpoint), str(tmp_path / str(rank)), "lora", rank=rank)
        tables.append(blocks(done))
        card = done.path.with_name(f"{done.path.stem}.README.md").read_text()
        lost = f"{tables[-1]['unet/mid_block'][1]:.3f}%"
        assert f"| {lost} |" in card.split("## What this file keeps")[1]
        assert "Left behind of the squared change: " in done.report
        assert "Left behind of the squared change: " in card
        assert "pipe.load_lora_weights(" in card
        assert (
            max(load_file(done.path)[k].item() for k in load_file(done.path) if k.endswith("alpha")) == rank
        )
    for block, (_, lost, carried) in tables[0].items():
        if carried is None:
            assert lost == 100  # norms and embeddings alone
            continue
        each = [table[block][2] for table in tables]
        assert each == sorted(each, reverse=True)  # type: ignore[type-var]
    assert {"text_encoder/embeddings", "unet/conv_norm_out"} <= {
        b for b, row in tables[0].items() if row[2] is None
    }


def test_the_printed_errors_are_those_of_the_file(
    checkpoint: Path, full_lora: Exported, delta: Exported
) -> None:
    tuned, base = (load_stable_diffusion(str(path)).unet.state_dict() for path in (checkpoint, TINY))
    for done in (full_lora, delta):
        given = load_stable_diffusion(str(done.path), base=TINY).unet.state_dict()
        sums = [0.0, 0.0, 0.0]
        for key, tensor in tuned.items():
            parts = (base[key], tensor - base[key], tensor - given[key])
            sums = [a + b.double().square().sum().item() for a, b in zip(sums, parts, strict=True)]
        change, lost, *_ = blocks(done)["unet"]
        assert change == pytest.approx(100 * (sums[1] / sums[0]) ** 0.5, abs=1e-3)
        assert lost == pytest.approx(100 * (sums[2] / sums[1]) ** 0.5, abs=1e-3)


def test_what_a_lora_leaves_behind_is_its_true_share(checkpoint: Path, full_lora: Exported) -> None:
    tuned, base = (weights(load_stable_diffusion(str(path))) for path in (checkpoint, TINY))
    squares = {
        key: (tuned[key] - base[key]).double().square().sum().item()
        for key in base
        if not key.startswith("vae.")
    }
    share = sum(v for k, v in squares.items() if "_embedding.weight" in k) / sum(squares.values())
    assert f"embeddings {share:.2%}" in full_lora.report


def test_a_dialled_lora_is_the_dialled_model(checkpoint: Path, full_lora: Exported, tmp_path: Path) -> None:
    half = export(str(checkpoint), str(tmp_path), "lora", rank=10**6, drift=0.5)
    assert half.path.name.endswith("-drift0.5.lora.safetensors")
    whole, base = (load_stable_diffusion(str(p), base=TINY) for p in (full_lora.path, TINY))
    key = "mid_block.resnets.0.conv1.weight"
    found = load_stable_diffusion(str(half.path), base=TINY).unet.state_dict()[key]
    w0, w = (model.unet.state_dict()[key] for model in (base, whole))
    torch.testing.assert_close(found, w0 + 0.5 * (w - w0), rtol=0, atol=4e-6)


# -- other programs --


def applied_by_hand(path: Path, base: StableDiffusionPipeline) -> dict[str, torch.Tensor]:
    """UNet weights after diffusers' own conversion of the file, with the factors multiplied here."""
    state, alphas = StableDiffusionPipeline.lora_state_dict(str(path))
    unet = {k.removeprefix("unet."): v for k, v in state.items() if k.startswith("unet.")}
    converted = convert_unet_state_dict_to_peft(unet)
    weights = dict(base.unet.state_dict())
    for key in [key for key in converted if key.endswith("lora_A.weight")]:
        name = key.removesuffix(".lora_A.weight")
        down, up = converted[key].float(), converted[f"{name}.lora_B.weight"].float()
        (alpha,) = set(alphas.values())
        change = (up.flatten(1) @ down.flatten(1)).mul(alpha / len(down))
        change = change.reshape(weights[f"{name}.weight"].shape)
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + change
    return weights


@pytest.fixture(scope="module")
def stock() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(TINY, safety_checker=None, local_files_only=True)


def test_diffusers_finds_every_layer_of_the_lora(full_lora: Exported, stock: Any) -> None:
    given = load_stable_diffusion(str(full_lora.path), base=TINY).unet.state_dict()
    assert isinstance(stock.unet, UNet2DConditionModel)
    for name, tensor in applied_by_hand(full_lora.path, stock).items():
        torch.testing.assert_close(tensor, given[name], rtol=1e-6, atol=1e-7)


def test_diffusers_loads_the_lora_with_peft(full_lora: Exported) -> None:
    pytest.importorskip("peft")
    pipe = StableDiffusionPipeline.from_pretrained(TINY, safety_checker=None, local_files_only=True)
    pipe.load_lora_weights(str(full_lora.path))
    pipe.fuse_lora()
    given = load_stable_diffusion(str(full_lora.path), base=TINY)
    for part in TRAINED:
        state = getattr(pipe, part).state_dict()
        for name, tensor in getattr(given, part).state_dict().items():
            head, _, kind = name.rpartition(".")
            fused = state.get(f"{head}.base_layer.{kind}", state.get(name))
            torch.testing.assert_close(fused, tensor, rtol=1e-5, atol=1e-6)


# -- refusals --


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rank": 4}, r"--rank: only a LoRA has a rank; add --format lora"),
        ({"format": "lora", "rank": 0}, r"--rank: 0 keeps nothing"),
        ({"format": "delta"}, "does not say which model it was fine-tuned from"),
        ({"format": "lora", "base": "pocket"}, "pocket cannot be the base of"),
    ],
)
def test_what_cannot_be_written_is_said(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        export(TINY, str(tmp_path), **options)
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_recipe_is_small_with_a_base_that_is_named(
    checkpoint: Path, tmp_path: Path
) -> None:
    tuned = export(str(checkpoint), str(tmp_path / "plain"), "diffusers")  # a folder tells no recipe
    done = export(str(tuned.path), str(tmp_path / "out"), "delta", base=TINY)
    assert entry(done.path)["base"] == "tiny_sd"
    given, exact = (weights(load_stable_diffusion(str(p), base=TINY)) for p in (done.path, tuned.path))
    assert all(
        torch.allclose(given[k], exact[k], rtol=1e-3, atol=4e-6) for k in given if not k.startswith("vae.")
    )


def test_an_earlier_export_and_a_diverged_model_are_refused(
    checkpoint: Path, delta: Exported, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="exists; choose another --to"):
        export(str(checkpoint), str(delta.path), "delta")

    def diverged(key: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor * torch.nan if key == "unet.conv_in.weight" else tensor

    broken = fit_checkpoint(tmp_path / "nan.ckpt", TINY, diverged)
    with pytest.raises(UserError, match=r"has diverged: unet\.conv_in\.weight"):
        export(str(broken), str(tmp_path / "o"), "lora")


def test_the_command_prints_the_table(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    argv = [
        "--ckpt_path",
        str(checkpoint),
        "--to",
        str(tmp_path),
        "--format",
        "lora",
        "--rank",
        "2",
        "--drift",
        "0.9",
    ]
    main(argv)
    printed = capsys.readouterr().out
    assert "block" in printed
    assert "lost of its layers" in printed
    assert "On a fixed input the text encoder's output is" in printed
    assert "drift0.9.lora.safetensors" in printed.splitlines()[-1]
