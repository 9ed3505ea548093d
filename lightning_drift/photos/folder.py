"""Which files of a folder are the photographs."""

from pathlib import Path

from lightning_drift.assets import PHOTOS
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.text import listed
from lightning_drift.images.decode import EXTENSIONS

_SIDECARS = (".txt", ".caption", ".json", ".md", ".xmp", ".aae")
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")


def find_folder(instance_dir: str, option: str = "data.instance_dir") -> Path:
    """The folder that ``instance_dir`` names: a bundled set, or else a path; ``option`` is for messages.

    Raises:
        UserError: There is no such folder or set.
    """
    sets = sorted(path.name for path in PHOTOS.iterdir() if path.is_dir())
    folder = Path(instance_dir).expanduser()
    try:
        is_folder, exists = folder.is_dir(), folder.exists()
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror or error})", option) from error
    if instance_dir in sets:
        if is_folder:
            notice(f"{instance_dir} is read as the bundled set; for your folder write ./{instance_dir}")
        return PHOTOS / instance_dir
    if is_folder:
        return folder
    if exists:
        raise UserError(f"{folder} is a file; give the folder that holds the photos", option)
    raise UserError(
        f"there is no folder {folder}, nor a bundled set of that name ({', '.join(sets)})",
        option,
    )


def find_pictures(folder: Path, option: str = "data.instance_dir") -> list[Path]:
    """Picture files of a folder by extension, sorted by name; hidden and system files are passed over.

    ``option`` is what named the folder, for messages.

    Raises:
        UserError: There is none, or the folder cannot be listed.
    """
    try:
        entries = [(path, path.is_dir()) for path in sorted(folder.iterdir(), key=lambda path: path.name)]
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror or error})", option) from error
    visible = [
        (path, is_folder)
        for path, is_folder in entries
        if not path.name.startswith((".", "__MACOSX")) and path.name.lower() not in _SYSTEM_FILES
    ]
    folders = [path.name for path, is_folder in visible if is_folder]
    files = [path for path, is_folder in visible if not is_folder and path.suffix.lower() not in _SIDECARS]
    pictures = [path for path in files if path.suffix.lower() in EXTENSIONS]
    others = [path.name for path in files if path.suffix.lower() not in EXTENSIONS]
    kinds = " ".join(extension[1:] for extension in EXTENSIONS)
    if not pictures:
        holds = f"; it holds {listed(others + [f'{name}/' for name in folders])}" if others or folders else ""
        raise UserError(f"{folder} has no photos in it (files that end in {kinds}){holds}", option)
    if others:
        notice(f"not read in {folder}: {listed(others)} (photos end in {kinds})")
    return pictures
