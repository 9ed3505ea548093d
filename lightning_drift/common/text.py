"""Names, times and sizes as messages write them."""

import shlex
import unicodedata
from collections.abc import Iterable

_NAMES_SHOWN = 8


def listed(names: Iterable[str]) -> str:
    """Join names for a sentence: the first eight, the rest counted.

    >>> listed("abcdefghij")
    'a, b, c, d, e, f, g, h and 2 more'
    """
    names = list(names)
    shown, rest = names[:_NAMES_SHOWN], len(names) - _NAMES_SHOWN
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


def reason(error: BaseException) -> str:
    r"""What a library says in an exception, in one line of at most 300 characters.

    >>> reason(ValueError("no such\n  schedule"))
    'no such schedule'
    >>> reason(KeyError("act_fn"))
    "KeyError 'act_fn'"
    """
    text = " ".join(str(error).split())[:300].rstrip(". ")
    kind = type(error).__name__
    return f"{kind} {text}".strip() if isinstance(error, LookupError) or not text else text


def duration(seconds: float) -> str:
    """Write a time of one second or more: seconds below 90 s, minutes below 90 min, then hours and minutes.

    >>> [duration(0.2), duration(89), duration(100), duration(5399), duration(7199)]
    ['1 s', '89 s', '2 min', '1 h 30 min', '2 h 0 min']
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def byte_size(count: float) -> str:
    """Write a number of bytes in KiB, MiB or GiB, with two decimals.

    >>> [byte_size(100), byte_size(5 * 2**20), byte_size(1.2 * 2**30), byte_size(2**42)]
    ['0.10 KiB', '5.00 MiB', '1.20 GiB', '4096.00 GiB']
    """
    for unit in ("KiB", "MiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.2f} {unit}"
    return f"{count / 1024:.2f} GiB"


def shell_word(text: str) -> str:
    r"""A text as one word of a command that is copied into a shell.

    Control characters are written out: a terminal would take some of them, pasted, for keys.

    >>> shell_word("a cup"), shell_word("a\x03b")
    ("'a cup'", "$'a\\x03b'")
    """
    if printable(text) == text:
        return shlex.quote(text)
    data = text.encode("utf-8", "surrogateescape")
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}" for byte in data)
    return f"$'{''.join(plain)}'"


def option(name: str, value: str) -> str:
    """An option of a command that is copied into a shell; a value that begins with a hyphen is joined to it.

    >>> option("title", "my cup"), option("title", "-cup")
    ("--title 'my cup'", '--title=-cup')
    """
    return f"--{name}{'=' if value.startswith('-') else ' '}{shell_word(value)}"


def command(words: Iterable[str]) -> str:
    """A command of this program that is copied into a shell.

    >>> command(["fit", "-c", "my run/config.yaml"])
    "lightning-drift fit -c 'my run/config.yaml'"
    """
    return " ".join(map(shell_word, ["lightning-drift", *words]))


def printable(text: str) -> str:
    r"""A text as one line that a terminal shows and does not obey.

    Control characters (line breaks and escape sequences included), marks that turn the direction of writing
    or take no room, line separators and halves of surrogate pairs are written as Python writes them.

    >>> printable("a\x1b[2J.jpg")
    'a\\x1b[2J.jpg'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else character
        for character in text
    )
