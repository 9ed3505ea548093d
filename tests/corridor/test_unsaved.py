"""What a fit leaves that was killed before its first checkpoint is made way for, claim and all."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_drift.common.claim_files import CLAIM
from lightning_drift.common.errors import UserError
from lightning_drift.common.lock import LOCK_FILE, FolderLock
from lightning_drift.corridor.fits import refuse_foreign, remove_unsaved


def test_a_killed_fits_folder_goes_and_a_living_ones_stays(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    code = (
        "import os; from pathlib import Path; from lightning_drift.common.lock import FolderLock;"
        "lock = FolderLock(Path('run'), 'run'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    (run / "config.yaml").touch()
    assert {path.name for path in run.iterdir()} == {CLAIM, LOCK_FILE, "config.yaml"}
    refuse_foreign(run)
    remove_unsaved(run)
    assert [*tmp_path.iterdir()] == []
    run.mkdir()
    lock = FolderLock(run, "run")
    (run / "config.yaml").touch()
    with pytest.raises(UserError, match="is being written by process"):
        remove_unsaved(run)
    lock.check()
    lock.release()
    (run / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds what no fit has made: notes\.txt\."):
        remove_unsaved(run)
    assert {path.name for path in run.iterdir()} == {CLAIM, "config.yaml", "notes.txt"}
