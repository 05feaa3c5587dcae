"""Draw an example of a folder of one's own pictures: ``python -m datasets.example DIR``.

    python -m datasets.example my_pictures
    python -m datasets.check dataset_name=folder dataset_root=my_pictures
    python train.py dataset_name=folder dataset_root=my_pictures experiment=small

Pictures, masks, label maps of parts, and keypoints: what ``dataset_name=folder`` reads (docs/data/folder.md).
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.synthetic import HUES_OF_SPECIES, KEYPOINTS, PARTS, draw_creature
from utils.errors import UserError
from utils.paths import read_path
from utils.seeding import generator


def draw_folder(root: Path, count: int = 100, size: int = 96, seed: int = 0) -> None:
    """Fill a folder with drawn creatures as the data set ``folder`` reads them, with all annotation.

    Args:
        root: will hold ``images/``, ``masks/``, ``parts/`` and ``keypoints.csv``.
        count: of pictures.
        size: longer side of a picture, pixels.

    Raises:
        UserError: the folder holds something already, or cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise UserError(f"{root} is not empty: name a new folder.")
        for name in ("images", "masks", "parts"):
            (root / name).mkdir()
        (root / "parts/parts.txt").write_text("".join(f"{label} {part}\n" for label, part in enumerate(PARTS, start=1)))
        rows = ["name,keypoint,x,y,visible"]
        for number in range(1, count + 1):
            rng = generator(seed, "example", number)
            image, part_map, keypoints = draw_creature(number % len(HUES_OF_SPECIES), size, rng)
            Image.fromarray(image).save(root / f"images/creature_{number:03d}.jpg", quality=95)
            Image.fromarray((part_map > 0).astype(np.uint8) * 255).save(root / f"masks/creature_{number:03d}.png")
            Image.fromarray(part_map).save(root / f"parts/creature_{number:03d}.png")
            for name, (x, y, visible) in zip(KEYPOINTS, keypoints, strict=True):
                rows.append(f"creature_{number:03d}.jpg,{name},{x:.1f},{y:.1f},{int(visible)}")
        (root / "keypoints.csv").write_text("\n".join(rows) + "\n")
    except OSError as error:
        raise UserError(f"Cannot draw into {root}: {error.strerror}. Name another folder.") from None


def main(arguments: list[str]) -> None:
    """The command: ends with status 2 and one message after a mistake."""
    try:
        if len(arguments) != 1 or arguments[0].startswith("-"):
            raise UserError("give one new folder: python -m datasets.example DIR")
        draw_folder(Path(read_path(arguments[0], "DIR")))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"Drawn: {arguments[0]}. Train on it: python train.py dataset_name=folder dataset_root={arguments[0]}")


if __name__ == "__main__":
    main(sys.argv[1:])
