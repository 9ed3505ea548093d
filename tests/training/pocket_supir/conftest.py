"""The stages of the pocket's SUPIR trained for two steps, and the models assembled of them."""

import pytest
from helpers.supir.stages import STAGES, stage_of

from training.pocket.run import train
from training.pocket_supir import autoencoder
from training.pocket_supir.assembly import write_models
from training.pocket_supir.stages import first_stage, trained_network


@pytest.fixture(scope="session", autouse=True)
def _few_held_out():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "HELD_OUT", 2)
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    state = tmp_path_factory.mktemp("state")
    for name in STAGES:
        train(stage_of(name, state, 2), state / name, precision="32-true")
    return state


@pytest.fixture(scope="session")
def models(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("models")
    write_models(trained_network(trained), first_stage(trained), out, "int8")
    return out
