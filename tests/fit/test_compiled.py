"""``model.torch_compile``: another rounding, recorded; where it cannot be, a sentence."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.fits import fit

from lightning_drift.common.errors import UserError
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.compiled import compiled

# Dynamo looks at the gradients of whatever it sees.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


def test_without_a_compiler_it_is_a_sentence(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(tmp_path / "no-compiler")))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    forward = compiled(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.SiLU()).forward)
    with pytest.raises(UserError, match=r"the UNet cannot be compiled here \(.*no-compiler") as told:
        forward(torch.ones(2, 3))
    assert told.value.option == "model.torch_compile"


@pytest.mark.slow
def test_a_compiled_fit_differs_by_rounding_records_it_and_goes_on_without(
    tiny_sd: str, trainer: Any, tmp_path: Path
) -> None:
    eager = fit(tiny_sd, trainer, tmp_path / "a", 2)
    made = fit(tiny_sd, trainer, tmp_path / "b", 2, model={"torch_compile": True})
    assert (eager["recipe"]["torch_compile"], made["recipe"]["torch_compile"]) == (False, True)
    assert made["state_dict"].keys() == eager["state_dict"].keys()
    moved = 2 * 1e-4
    for name, tensor in made["state_dict"].items():
        assert torch.allclose(tensor, eager["state_dict"][name], atol=2 * moved), name
    last = tmp_path / "b" / "last.ckpt"
    assert fit(tiny_sd, trainer, tmp_path / "b", 3, resume=last)["global_step"] == 3
    assert read_checkpoint(last)["recipe"]["torch_compile"] is False
