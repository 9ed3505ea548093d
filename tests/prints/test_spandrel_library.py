"""spandrel is imported with torchvision or without, and its lack is a sentence."""

import sys
from importlib.util import find_spec

import pytest

from lightning_drift.common.errors import UserError
from lightning_drift.prints.spandrel_library import spandrel


@pytest.fixture
def fresh(monkeypatch):
    """As if spandrel had not been imported yet."""
    spandrel()
    for name in [name for name in sys.modules if name.split(".")[0] in ("spandrel", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_nothing_is_left_of_what_stands_in_for_torchvision(fresh):
    assert spandrel().MAIN_REGISTRY["RestoreFormer"]  # which imports it
    assert not [name for name in sys.modules if name.startswith("torchvision")]
    assert find_spec("torchvision") is None


def test_a_torchvision_that_is_installed_is_the_one_that_is_used(fresh, monkeypatch, tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"spandrel cannot be imported \(operator torchvision::nms does not"):
        spandrel()


@pytest.mark.parametrize("name", ["spandrel", "einops"])
def test_what_is_not_installed_is_named_with_the_command(name, fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError) as caught:
        spandrel()
    assert str(caught.value) == (
        f"model.upscaler: a network needs the package {name}, which is not installed: "
        "pip install --no-deps spandrel einops"
    )
