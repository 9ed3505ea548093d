import pytest
import torch
from helpers.supir import golden as golden_data


@pytest.fixture(scope="session")
def network():
    return golden_data.tiny_network()


@pytest.fixture(scope="session")
def first_stage():
    return golden_data.tiny_first_stage()


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    from helpers.supir.models import write_sdxl_folder, write_supir

    write_supir(folder / "SUPIR-v0Q.ckpt")
    write_sdxl_folder(folder / "sdxl")
    return {"supir": str(folder / "SUPIR-v0Q.ckpt"), "sdxl": str(folder / "sdxl")}


@pytest.fixture
def photos(tmp_path):
    from helpers.supir.running import photo

    folder = tmp_path / "photos"
    folder.mkdir()
    photo(folder / "a.png")
    photo(folder / "b.png", size=(48, 32), seed=1)
    return folder
