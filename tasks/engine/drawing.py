"""Images with text, and as data URLs, with Pillow alone."""

import base64
import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

HEIGHT, WIDTH, LINE = 240, 220, 18  # pixels: the least height of an image, the panel beside it, a line of text
WIDEST = 4 * HEIGHT  # to which an image is enlarged
DARK, WHITE = (20, 20, 20), (255, 255, 255)


def captioned(image: Image.Image, lines: Sequence[str]) -> Image.Image:
    """The image with lines of text on a dark bar at its top."""
    if not lines:
        return image
    canvas = image.copy()
    size = max(9, canvas.height // 18)
    font, draw = ImageFont.load_default(size), ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, canvas.width, (size + 3) * len(lines) + 3), fill=DARK)
    for i, line in enumerate(lines):
        draw.text((4, 2 + i * (size + 3)), line, fill=WHITE, font=font)
    return canvas


def beside(image: Image.Image, lines: Sequence[str]) -> Image.Image:
    """The image, enlarged where it is small, with lines of text to its right."""
    scale = max(1.0, min(HEIGHT / image.height, WIDEST / image.width))
    size = max(1, round(image.height * scale / HEIGHT))
    source = image.resize((round(image.width * scale), round(image.height * scale)))
    canvas = Image.new("RGB", (source.width + size * WIDTH, max(HEIGHT, source.height)), DARK)
    canvas.paste(source)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14 * size)
    for i, line in enumerate(lines):
        draw.text((source.width + 8 * size, (4 + i * LINE) * size), line, fill=WHITE, font=font)
    return canvas


def data_url(image: Image.Image) -> str:
    """The image as a JPEG in a data URL, for a page that is a single file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
