"""The predict stage that prints: pictures enlarged, to exact sizes."""
