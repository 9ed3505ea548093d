"""What the HTML pages share: filling a template, thumbnails, the style."""
