import pytest
from helpers.supir.models import write_sdxl_folder, write_supir
from helpers.supir.running import photo


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_supir(folder / "SUPIR-v0Q.ckpt")
    write_sdxl_folder(folder / "sdxl")
    return {"supir": str(folder / "SUPIR-v0Q.ckpt"), "sdxl": str(folder / "sdxl")}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    photo(folder / "a.png")
    photo(folder / "b.png", size=(48, 32), seed=1)
    return folder
