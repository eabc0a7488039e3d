"""Files that decoders fall over, each with what must become of it: a reason, or pixels."""

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
from fetched_corpus import encoded
from icc_profiles import grey_of_light, light_of_lightness, lightness_of_cyan, linear_grey
from PIL import Image, ImageCms

from pipelines.curate.reasons import Reason

WIDTH, HEIGHT = 96, 72
# EXIF 2.32, table 6: how a camera stores the picture so that the tag brings it upright.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class Torture:
    """A file and its fate: `reason`, or `pixels` within a mean error of `tolerance` levels."""

    data: bytes
    reason: Reason | None = None
    pixels: Image.Image | None = None
    tolerance: float = 0.0


def picture() -> Image.Image:
    """Smooth colours, each corner another: every turn, mirroring and wrong channel shows."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    wave = 20 * np.sin(x / 7.0) + 20 * np.cos(y / 5.0)
    red, green, blue = x * 255 / WIDTH, y * 255 / HEIGHT, 220 - (x + y) * 0.9 + wave
    return Image.fromarray(np.stack([red, green, blue], -1).clip(0, 255).astype(np.uint8))


def grey() -> Image.Image:
    """`picture` without colour."""
    return picture().convert("L")


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG file of unfiltered rows, each starting with a zero."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows, 9))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def flat_png(width: int, height: int) -> bytes:
    """One colour, a thousandth of its pixels in size."""
    packer = zlib.compressobj(9)
    rows = [packer.compress(b"\0" + b"\x50" * (3 * width)) for _ in range(height)]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", b"".join(rows) + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG that repeats its last scan: small, and work without end."""
    data = encoded(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * scans + b"\xff\xd9"


def many_frames(frames: int) -> bytes:
    """A GIF of so many frames of one pixel."""
    frame = b"\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"
    screen = b"GIF89a" + struct.pack("<HH", WIDTH, HEIGHT) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    return screen + frame * frames + b";"


def _bombs() -> dict[str, Torture]:
    webp = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + (16383).to_bytes(3, "little") * 2
    bitmap = struct.pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    jpeg, lossy, avif = (bytearray(encoded(picture(), k)) for k in ("JPEG", "WEBP", "AVIF"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65_500, 65_500)
    # RFC 6386, section 9.1, and RFC 9649, section 3.4: 14 bits each.
    at = lossy.index(b"\x9d\x01\x2a")
    lossy[at + 3 : at + 7] = struct.pack("<HH", 16_383, 16_383)
    lossless = bytearray(encoded(picture(), "WEBP", lossless=True))
    at = lossless.index(b"VP8L") + 9
    lossless[at : at + 4] = struct.pack("<I", 16_382 << 14 | 16_382)
    at = avif.index(b"ispe") + 8
    avif[at : at + 8] = struct.pack(">II", 16_383, 16_383)
    files = {
        "png": png(60_000, 60_000, 8, 2, b"\0" * 100),
        "png over the cap": png(8001, 8000, 8, 2, b"\0" * 100),
        "gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + many_frames(1)[10:],
        "webp": b"RIFF" + struct.pack("<I", len(webp)) + webp + b"\0" * 400,
        "bmp": b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + bitmap + b"\0" * 400,
        "jpeg": bytes(jpeg),
        "lossy webp": bytes(lossy),
        "lossless webp": bytes(lossless),
        "avif": bytes(avif),
    }
    found = {f"bomb: {name}": Torture(d, Reason.TOO_MANY_PIXELS) for name, d in files.items()}
    found["bomb: frames"] = Torture(many_frames(1001), Reason.TOO_MANY_FRAMES)
    return found


def _polyglots() -> dict[str, Torture]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("index.html", "<script>alert(1)</script>" * 20)
    html = b"<html><script>alert(1)</script></html>" * 10
    flat = picture().quantize(64)
    jpeg = encoded(picture(), "JPEG", quality=95)
    other = picture().transpose(Image.Transpose.ROTATE_180)
    several = encoded(picture(), "MPO", save_all=True, append_images=[other], quality=95)
    return {
        "gif and html": Torture(encoded(flat, "GIF") + html, pixels=flat.convert("RGB")),
        "png and zip": Torture(encoded(picture()) + archive.getvalue(), pixels=picture()),
        "jpeg and zip": Torture(jpeg + archive.getvalue(), pixels=picture(), tolerance=3),
        "mpo": Torture(several, pixels=picture(), tolerance=3),
        "html that starts as a gif": Torture(b"GIF89a" + html, Reason.DAMAGED_IMAGE),
        "html": Torture(html, Reason.NOT_AN_IMAGE),
        "zip": Torture(archive.getvalue(), Reason.NOT_AN_IMAGE),
        "svg": Torture(b"<svg xmlns='http://www.w3.org/2000/svg'/>" * 9, Reason.NOT_AN_IMAGE),
        "tiff": Torture(encoded(picture(), "TIFF"), Reason.NOT_AN_IMAGE),
        "postscript": Torture(encoded(picture(), "EPS"), Reason.NOT_AN_IMAGE),
    }


def _depths() -> dict[str, Torture]:
    # The low byte is noise, which scaling by 1/257 and dropping it must both forget.
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4))
    rgba = np.asarray(picture().convert("RGBA")).astype(int) * 256 + noise
    deep_grey = np.asarray(grey()).astype(int) * 256 + noise[..., 0]
    deep_grey[:8] = 0x1234
    over_white = np.asarray(grey()).copy()
    over_white[:8] = 255
    plain = np.asarray(grey()).copy()
    plain[:8] = 0x12
    two_bits = np.asarray(grey()) >> 6
    shown = np.where(two_bits == 1, 255, two_bits * 85).astype(np.uint8)

    def rows(levels: np.ndarray, kind: str = ">u2") -> bytes:
        return b"".join(b"\0" + line.astype(kind).tobytes() for line in levels)

    quarters = two_bits.reshape(HEIGHT, -1, 4) @ np.array([64, 16, 4, 1])
    clear = chunk(b"tRNS", struct.pack(">H", 0x1234))
    clear_level = chunk(b"tRNS", struct.pack(">H", 1))
    size = (WIDTH, HEIGHT)
    as_rgb = {
        name: Image.fromarray(levels).convert("RGB")
        for name, levels in (("plain", plain), ("white", over_white), ("shown", shown))
    }
    return {
        "16-bit rgb": Torture(png(*size, 16, 2, rows(rgba[..., :3])), pixels=picture()),
        "16-bit grey": Torture(png(*size, 16, 0, rows(deep_grey)), pixels=as_rgb["plain"]),
        "16-bit grey, one level clear": Torture(
            png(*size, 16, 0, rows(deep_grey), clear), pixels=as_rgb["white"]
        ),
        "2-bit grey, one level clear": Torture(
            png(*size, 2, 0, rows(quarters, "u1"), clear_level), pixels=as_rgb["shown"]
        ),
        "1 bit": Torture(encoded(grey().convert("1")), pixels=grey().convert("1").convert("RGB")),
        "16-bit rgba": Torture(
            png(*size, 16, 6, rows(_half_clear(rgba))), pixels=on_white(), tolerance=0.6
        ),
    }


def _half_clear(rgba: np.ndarray) -> np.ndarray:
    levels = rgba.copy()
    levels[..., 3] = np.linspace(0, 0xFFFF, WIDTH).astype(int)
    return levels


def faded() -> Image.Image:
    """`picture`, clear at its left edge and solid at its right."""
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1)))
    image = picture()
    image.putalpha(alpha)
    return image


def on_white() -> Image.Image:
    """`faded` over white paper, by the formula."""
    levels = np.asarray(faded()).astype(float)
    share = levels[..., 3:] / 255
    return Image.fromarray((levels[..., :3] * share + 255 * (1 - share)).round().astype(np.uint8))


def _alpha() -> dict[str, Torture]:
    palette = picture().quantize(32)
    clear = bytes([0, 128]) + bytes([255]) * 30
    colours = np.asarray(palette.convert("RGB")).astype(float)
    share = np.array(list(clear))[np.asarray(palette)][..., None] / 255
    shown = Image.fromarray((colours * share + 255 * (1 - share)).round().astype(np.uint8))
    light = grey()
    light.putalpha(faded().getchannel("A"))
    over = np.asarray(light).astype(float)
    share_grey = over[..., 1] / 255
    grey_shown = (over[..., 0] * share_grey + 255 * (1 - share_grey)).round().astype(np.uint8)
    return {
        "rgba": Torture(encoded(faded()), pixels=on_white(), tolerance=0.6),
        "rgba webp": Torture(
            encoded(faded(), "WEBP", lossless=True, exact=True), pixels=on_white(), tolerance=0.6
        ),
        "palette with alpha": Torture(
            encoded(palette, transparency=clear), pixels=shown, tolerance=0.6
        ),
        "grey with alpha": Torture(
            encoded(light), pixels=Image.fromarray(grey_shown).convert("RGB"), tolerance=0.6
        ),
    }


def _colours() -> dict[str, Torture]:
    # Ink in the black channel too: the plain conversion of RGB never uses it.
    inks = np.asarray(picture().convert("CMYK")).copy()
    inks[..., 3] = np.asarray(grey()) // 3
    paper = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    shown = Image.fromarray(paper.round().astype(np.uint8))
    cmyk = encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=100, subsampling=0)
    at = cmyk.index(b"\xff\xee")
    length = struct.unpack(">H", cmyk[at + 2 : at + 4])[0]
    without_marker = cmyk[:at] + cmyk[at + 2 + length :]
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    lightness = 100 * (1 - np.asarray(Image.fromarray(inks, "CMYK").getchannel("C")) / 255)
    of_cyan = grey_of_light(light_of_lightness(lightness)).astype(np.uint8)
    lit = grey_of_light(np.asarray(grey()) / 255).astype(np.uint8)
    red, green, blue = picture().split()
    crossed = Image.merge("RGB", (blue, green, red))
    return {
        "cmyk": Torture(cmyk, pixels=shown, tolerance=3),
        "cmyk without adobe's marker": Torture(without_marker, pixels=shown, tolerance=3),
        "cmyk with a profile": Torture(
            encoded(
                Image.fromarray(inks, "CMYK"),
                "JPEG",
                quality=100,
                subsampling=0,
                icc_profile=lightness_of_cyan(),
            ),
            pixels=Image.fromarray(of_cyan).convert("RGB"),
            tolerance=2,
        ),
        "grey with a profile": Torture(
            encoded(grey(), icc_profile=linear_grey()),
            pixels=Image.fromarray(lit).convert("RGB"),
            tolerance=1,
        ),
        "grey jpeg with a profile": Torture(
            encoded(grey(), "JPEG", quality=100, icc_profile=linear_grey()),
            pixels=Image.fromarray(lit).convert("RGB"),
            tolerance=2,
        ),
        "srgb profile": Torture(encoded(picture(), icc_profile=srgb), pixels=picture()),
        "profile with red and blue swapped": Torture(
            encoded(crossed, icc_profile=swapped), pixels=picture(), tolerance=1.5
        ),
        "the same as jpeg": Torture(
            encoded(crossed, "JPEG", icc_profile=swapped, quality=95, subsampling=0),
            pixels=picture(),
            tolerance=4,
        ),
        "broken profile": Torture(
            encoded(picture(), icc_profile=srgb[:200] + b"\xff" * 300), pixels=picture()
        ),
        "profile of other channels": Torture(
            encoded(grey(), icc_profile=swapped), pixels=grey().convert("RGB")
        ),
    }


def _formats() -> dict[str, Torture]:
    others = [picture().transpose(Image.Transpose.ROTATE_180), Image.new("RGB", (WIDTH, HEIGHT))]
    moving = {"save_all": True, "append_images": others}
    flat = picture().quantize(200)
    found = {
        "bmp": Torture(encoded(picture(), "BMP"), pixels=picture()),
        "webp": Torture(encoded(picture(), "WEBP", lossless=True), pixels=picture()),
        "avif": Torture(encoded(picture(), "AVIF", quality=95), pixels=picture(), tolerance=4),
        "progressive jpeg": Torture(
            encoded(picture(), "JPEG", quality=95, progressive=True), pixels=picture(), tolerance=3
        ),
        "animated gif": Torture(encoded(flat, "GIF", **moving), pixels=flat.convert("RGB")),
        "animated png": Torture(encoded(picture(), "PNG", **moving), pixels=picture()),
        "animated avif": Torture(
            encoded(picture(), "AVIF", quality=95, **moving), pixels=picture(), tolerance=4
        ),
        "animated webp": Torture(
            encoded(picture(), "WEBP", lossless=True, **moving), pixels=picture()
        ),
        "broken exif": Torture(
            encoded(picture(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), pixels=picture()
        ),
    }
    for number, turn in STORED.items():
        exif = Image.Exif()
        exif[0x0112] = number
        stored = picture() if turn is None else picture().transpose(turn)
        jpeg = encoded(stored, "JPEG", exif=exif, quality=95)
        found[f"exif {number} png"] = Torture(encoded(stored, exif=exif), pixels=picture())
        found[f"exif {number} jpeg"] = Torture(jpeg, pixels=picture(), tolerance=3)
    return found


def torture_set() -> dict[str, Torture]:
    """Every file by its name."""
    return _bombs() | _polyglots() | _depths() | _alpha() | _colours() | _formats()
