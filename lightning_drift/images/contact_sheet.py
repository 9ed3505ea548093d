"""Many pictures on one sheet, labelled."""

from collections.abc import Sequence
from math import ceil, sqrt

from PIL import Image, ImageDraw, ImageFont, ImageOps

GROUND = (22, 22, 23)
INK = (214, 214, 210)
FAINT = (142, 142, 138)

_LONGEST = 4000
"""Characters of a label; no sheet is wide enough for more."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    images: Sequence[Image.Image],
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    title: str | None = None,
    per_row: int | None = None,
    cell: int | None = None,
    side: int | None = None,
) -> Image.Image:
    """Lay pictures out in rows on a dark neutral ground.

    Pictures keep their pixels: those smaller than 192 are enlarged a whole number of times without smoothing,
    and only ``cell`` shrinks any. A picture that differs in size is centred in its cell.

    Args:
        images: The pictures, row by row, at least one.
        rows: A heading above each row, for example its prompt; wrapped and shortened to the sheet's width.
        columns: A heading over each column, for example its seed.
        captions: A line below each picture, for example its file name.
        title: A line at the top.
        per_row: Pictures in a row; by default the number of columns, or what makes a sheet wider than high.
        cell: Longest side in pixels to which larger pictures are shrunk; None shrinks none.
        side: Pixels that enlarged pictures may take along a side together; None for any number.

    Returns:
        The sheet, mode RGB.

    Raises:
        ValueError: The numbers of pictures and labels do not agree.
    """
    count = len(images)
    if not count:
        raise ValueError("a contact sheet needs at least one picture")
    if per_row is None:
        per_row = len(columns) if columns else ceil(count / len(rows)) if rows else _evenly(count)
    across = min(per_row, count)
    down = ceil(count / across)
    for name, labels, needed in (
        ("rows", rows, down),
        ("columns", columns, across),
        ("captions", captions, count),
    ):
        if labels is not None and len(labels) != needed:
            raise ValueError(f"{len(labels)} {name} for {count} pictures, {across} in a row")

    if cell:
        images = [
            ImageOps.contain(image, (cell, cell)) if max(image.size) > cell else image for image in images
        ]
    longest = max(max(image.size) for image in images)
    zoom = max(1, ceil(192 / longest))
    if side is not None:
        zoom = max(1, min(zoom, side // (longest * max(across, down))))
    cell_width = zoom * max(image.width for image in images)
    cell_height = zoom * max(image.height for image in images)
    gap = max(6, cell_width // 40)
    margin = 3 * gap
    size = max(13, min(cell_width // 18, 28))
    font, large = ImageFont.load_default(size), ImageFont.load_default(round(size * 1.25))
    line, large_line = round(size * 1.5), round(size * 1.9)
    width = 2 * margin + across * cell_width + (across - 1) * gap
    inner = width - 2 * margin
    headings = [_wrapped(text, font, inner) for text in rows] if rows else [[] for _ in range(down)]
    heights = [
        len(heading) * line + (gap if heading else 0) + cell_height + (line + gap // 2 if captions else 0)
        for heading in headings
    ]
    over = line + (2 * gap if rows else gap // 2) if columns else 0
    top = margin + (large_line + gap if title else 0) + over
    between = gap if not (rows or captions) else 2 * gap
    height = top + sum(heights) + (down - 1) * between + margin

    sheet = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((margin, margin), _shortened(title, large, inner), INK, large)
    if columns:
        for index, text in enumerate(columns):
            centre = margin + index * (cell_width + gap) + cell_width // 2
            draw.text((centre, top - over), _shortened(text, font, cell_width), FAINT, font, anchor="ma")
    y = top
    for row, heading in enumerate(headings):
        start = y
        for text in heading:
            draw.text((margin, y), text, INK, font)
            y += line
        y += gap if heading else 0
        for column in range(min(across, count - row * across)):
            index = row * across + column
            image = images[index].convert("RGB")
            if zoom > 1:
                image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
            x = margin + column * (cell_width + gap)
            sheet.paste(image, (x + (cell_width - image.width) // 2, y + (cell_height - image.height) // 2))
            if captions:
                below = (x, y + cell_height + gap // 2)
                draw.text(below, _shortened(captions[index], font, cell_width), FAINT, font)
        y = start + heights[row] + between
    return sheet


def _evenly(count: int) -> int:
    """How many in a row fill a sheet that is as wide as high or wider, with full rows where possible."""
    widths = range(ceil(sqrt(count)), ceil(2 * sqrt(count)) + 1)
    return next((width for width in widths if count % width == 0), ceil(sqrt(2 * count)))


def _drawable(text: str) -> str:
    """A text on one line; halves of surrogate pairs, which no font has, are written out."""
    return " ".join(text.split()).encode("utf-8", "backslashreplace").decode()


def _shortened(text: str, font: Font, width: int) -> str:
    """Cut text to a width, with an ellipsis where it was cut."""
    whole = _drawable(text)
    text = whole[:_LONGEST]
    if text == whole and font.getlength(text) <= width:
        return text
    # Half of what is certainly too long goes at a time: a letter at a time, 10,000 take a minute.
    while len(text) > 64 and font.getlength(text[: len(text) // 2]) > width:
        text = text[: len(text) // 2]
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _wrapped(text: str, font: Font, width: int, most: int = 3) -> list[str]:
    """Break text into at most ``most`` lines of a width."""
    lines: list[str] = []
    words = _drawable(text[: 2 * _LONGEST]).split() or [""]
    while words and len(lines) < most:
        taken = 1
        while taken < len(words) and font.getlength(" ".join(words[: taken + 1])) <= width:
            taken += 1
        if len(lines) == most - 1:
            taken = len(words)
        lines.append(_shortened(" ".join(words[:taken]), font, width))
        words = words[taken:]
    return lines
