"""On how many codes bf16, and the compiled program, agree with fp32 as it is written.

`python -m benchmarks.token_precision MODEL PAIRS [COUNT]` takes the directory of a finished dVAE
and one of `deduped_pairs`. Where two codes are nearly as likely, rounding decides; so what is
lost in likelihood is printed too.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from pipelines import parquet, storage
from pipelines.encode.image_tokens import crop, decode
from training.dvae.images import to_tensor
from training.image_tokenizer import codes_program
from training.models.loading import load_dvae


def pictures(pairs: str, size: int, count: int) -> torch.Tensor:
    """The first crops, uint8 [n, 3, S, S]."""
    found: list[np.ndarray] = []
    for shard in storage.list_files(pairs, ".parquet"):
        for rows in parquet.read_batches(shard, columns=["uid", "image"], rows=64):
            images, uids = rows.column("image").to_pylist(), rows.column("uid").to_pylist()
            found += [crop(decode(i), u, 0, size) for i, u in zip(images, uids, strict=True)]
            if len(found) >= count:
                return to_tensor(np.stack(found[:count]))
    return to_tensor(np.stack(found))


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.token_precision", description=__doc__
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="directory of the dVAE")
    parser.add_argument("pairs", metavar="PAIRS", help="directory of deduped_pairs")
    parser.add_argument("count", type=int, nargs="?", default=200, metavar="COUNT", help="pictures")
    options = parser.parse_args()
    model = load_dvae(options.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    images = pictures(options.pairs, model.config.image_size, options.count)
    images = images.to(next(model.parameters()).device)
    with torch.inference_mode():
        plain = codes_program(model, "fp32")(images).long()
        likely = model.logits(images).log_softmax(1)
        best = likely.gather(1, plain[:, None])
        for name, program in (
            ("bf16", codes_program(model, "bf16")),
            ("fp32, compiled", torch.compile(codes_program(model, "fp32"))),
        ):
            codes = program(images).long()
            lost = (best - likely.gather(1, codes[:, None]))[:, 0][codes != plain]
            worst = f", at most {float(lost.max()):.3f} nats less likely" if len(lost) else ""
            same = float((codes == plain).float().mean())
            print(f"{name:16} {same:8.3%} of {codes.numel()} codes{worst}", flush=True)


if __name__ == "__main__":
    main()
