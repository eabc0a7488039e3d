"""ICC profiles (ICC.1:2001-04) whose colours follow from a formula: no device has them."""

import struct

import numpy as np

_D50 = struct.pack(">3i", 63190, 65536, 54061)


def linear_grey() -> bytes:
    """Of a grey channel in proportion to the light, as no screen shows it."""
    curve = b"curv" + struct.pack(">IIH", 0, 1, 256)  # gamma 1, in eighths of eight bits
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve + b"\0\0"})


def lightness_of_cyan() -> bytes:
    """Of four inks, the first of which alone counts: L* falls from 100 to 0 with it."""
    ramp = bytes(range(256))
    corners = b"".join(bytes([0 if cyan else 255, 128, 128]) for cyan in (0, 1) for _ in range(8))
    identity = struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 65536)
    table = b"mft1" + struct.pack(">IBBBB", 0, 4, 3, 2, 0) + identity
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table + ramp * 4 + corners + ramp * 3})


def grey_of_light(light: np.ndarray) -> np.ndarray:
    """sRGB level (IEC 61966-2-1) of a share of the light of white, uint8."""
    low = 12.92 * light
    return np.round(255 * np.where(light <= 0.0031308, low, 1.055 * light ** (1 / 2.4) - 0.055))


def light_of_lightness(lightness: np.ndarray) -> np.ndarray:
    """Share of the light of white, of L* from 0 to 100 (CIE 1976)."""
    return np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)


def _profile(kind: bytes, space: bytes, between: bytes, tags: dict[bytes, bytes]) -> bytes:
    white = b"XYZ " + bytes(4) + _D50
    words = b"desc" + struct.pack(">II", 0, 5) + b"test\0" + bytes(12 + 67)
    tags = {b"desc": words, b"wtpt": white, b"cprt": b"text" + bytes(4) + b"none\0"} | tags
    listed, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        listed += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x02400000, kind, space, between)
    date = struct.pack(">6H", 2024, 1, 1, 0, 0, 0)
    head = (head + date + b"acsp").ljust(68, b"\0") + _D50
    return head.ljust(128, b"\0") + listed + body
