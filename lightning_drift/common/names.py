"""Names of a user that become names of files: a run, a subject, a grid's group, a corridor."""

import os
import unicodedata

from lightning_drift.common.errors import UserError

MAX_NAME_BYTES = 120
"""What a name may take in UTF-8: file systems allow 255, and what stands beside a name needs room too."""

_RESERVED = set('/\\:*?"<>|')


def file_name(value: object, option: str) -> str:
    """A name that is safe as one part of a path, on every common file system and inside a page.

    Args:
        value: What was given.
        option: The option's name, for the error message.

    Raises:
        UserError: It is no text, is empty, too long, or could lead elsewhere: it holds a separator, a control
            character or one that other systems refuse, begins with a dot, a hyphen or ``~``, or ends in a
            dot or a space.

    >>> file_name("dream v1.5", "seed_grid.groups")
    'dream v1.5'
    """
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{value!r} is not a name", option)
    if os.path.isabs(value):
        raise UserError(f"{value!r} is a path; give a name", option)
    shown = value if len(value) <= 60 else value[:60] + "…"
    unfit = [c for c in value if c in _RESERVED or unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    if unfit:
        raise UserError(f"the name {shown!r} holds {unfit[0]!r}, which a file's name cannot", option)
    if len(value.encode()) > MAX_NAME_BYTES:
        raise UserError(f"the name {shown!r} is longer than {MAX_NAME_BYTES} bytes", option)
    if value[0] in ".-~ " or value[-1] in ". ":
        raise UserError(
            f"{shown!r} is not a file's name: one begins with a letter or a digit and ends in neither a dot "
            "nor a space",
            option,
        )
    return value
