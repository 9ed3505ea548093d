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
