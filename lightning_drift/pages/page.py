"""HTML pages: templates filled with text, with their data, styles and scripts inside."""

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_LOADER = PackageLoader("lightning_drift", "")


def render(template: str, **content: Any) -> str:
    """Fill a template of the package; all text that it is given is escaped.

    A template has two functions beside its content: ``asset("sweep/page.css")`` is a file of the package as
    it is, and ``embed(data)`` is data as JSON inside a ``<script type="application/json">``.

    Args:
        template: Its path in the package, such as ``sweep/page.html``. It extends ``pages/base.html``.
        content: The template's variables.

    Raises:
        jinja2.UndefinedError: The template names something that is not in ``content``.
    """
    text = _ENVIRONMENT.get_template(template).render(content)
    # Names that are not UTF-8 hold halves of surrogate pairs: \udce9 in words, which JSON reads back.
    return text.encode("utf-8", "backslashreplace").decode()


def embed(data: Any) -> Markup:
    r"""Data as JSON inside a ``<script>``.

    No ``<`` is left in it. Otherwise ``</script>`` in a prompt would end the data, and ``<!--<script>`` would
    make the browser look for a second end tag and read the rest of the page as data.

    >>> embed(["</script>", "<!--", 1.5])
    Markup('["\\u003c/script>","\\u003c!--",1.5]')

    Raises:
        ValueError: A number is infinite or not a number, which JSON cannot say.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _asset(path: str) -> Markup:
    """A style or script of the package: trusted text, neither escaped nor read as a template."""
    text, _, _ = _LOADER.get_source(_ENVIRONMENT, path)
    return Markup(text.strip())


_ENVIRONMENT = Environment(
    loader=_LOADER, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_ENVIRONMENT.globals |= {"asset": _asset, "embed": embed}
