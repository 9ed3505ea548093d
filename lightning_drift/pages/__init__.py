"""What the HTML pages share: one machine that fills templates, their frame and style, thumbnails."""
