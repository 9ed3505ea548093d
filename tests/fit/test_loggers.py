"""Pictures and verdicts reach TensorBoard, loggers with Lightning's log_image, and trouble no others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_drift.drift.clip_drift import ClipDrift
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.photos.instance_images import InstanceImages


class Pictures(Logger):
    """A logger as Lightning's own for services: numbers, pictures in a list, texts as tables."""

    name, version, experiment = "pictures", 0, object()

    def __init__(self) -> None:
        super().__init__()
        self.images: dict[tuple[str, int], list[Image.Image]] = {}
        self.texts: dict[tuple[str, int], Any] = {}

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        pass

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        if not isinstance(images, list):
            raise TypeError(f'Expected a list as "images", found {type(images)}')
        assert step is not None
        self.images[key, step] = images

    def log_text(
        self, key: str, columns: Any = None, data: Any = None, dataframe: Any = None, step: int | None = None
    ) -> None:
        assert step is not None
        self.texts[key, step] = (columns, data)


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_pictures_and_verdicts_reach_loggers_that_take_them(
    tiny_sd: str, trainer: Any, tmp_path: Path
) -> None:
    grid = SeedGrid("0,2", {"dream": {"prompts": "a lake", "seeds": "0-1"}}, num_inference_steps=1)
    service, board = Pictures(), TensorBoardLogger(tmp_path, name="s", version="r", default_hp_metric=False)
    loggers = [board, service, CSVLogger(tmp_path / "csv")]  # the last one takes numbers alone
    drift = ClipDrift(clip=None, language=None, cache_dir=None)
    trainer(max_steps=2, callbacks=[grid, drift], logger=loggers).fit(
        DreamBooth(tiny_sd, learning_rate=1e-3), datamodule=InstanceImages("coffee", cache_dir=None)
    )
    assert set(service.images) == {("grid/a-lake", 0), ("grid/a-lake", 2)}
    ((row,), (base,)) = service.images["grid/a-lake", 2], service.images["grid/a-lake", 0]
    assert row.size == (128, 64)
    assert not np.array_equal(np.asarray(row), np.asarray(base))
    events = EventAccumulator(board.log_dir, size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    assert [event.step for event in events.Images("grid/a-lake")] == [0, 2]
    said = {
        event.step: event.tensor_proto.string_val[0].decode()
        for event in events.Tensors("drift/verdict/text_summary")
    }
    assert said
    for step, text in said.items():
        assert service.texts["drift/verdict", step] == (["step", "text"], [[str(step), text]])
