"""Images per second from an LMDB to batches of floats.

Four databases of the same images: 256 x 256 raw; the same as JPEG; and JPEGs of 400 x 533 that are only cropped to
224 x 224, or resized, cropped, mirrored and shifted in colour. One and two threads (SPP_DATA_WORKERS); the last also
with torch's DataLoader in one and two processes, with Pillow as decoder.

  make bench-pipeline, or: python benchmarks/pipeline.py [--rounds 5]
"""
import os
import tempfile
from typing import Any, Callable

import cv2
import numpy as np

import turns

IMAGES, BATCH = 256, 32
TASKS = {"raw 256, crop 224": turns.Task(IMAGES), "JPEG 256, crop 224": turns.Task(IMAGES),
         "JPEG 400x533, crop 224": turns.Task(IMAGES), "JPEG 400x533, augmented": turns.Task(IMAGES)}
CONTENDERS = {
    "spp": turns.Contender("one thread", environment={"SPP_DATA_WORKERS": "1"}),
    "spp, 2 threads": turns.Contender("two threads", environment={"SPP_DATA_WORKERS": "2"}),
    "torch DataLoader": turns.Contender("one process, Pillow", ("torch", "PIL")),
    "torch DataLoader, 2": turns.Contender("two processes, Pillow", ("torch", "PIL")),
}
TRANSFORM = {
    "raw 256, crop 224": "crop_size: 224 mirror: true mean_value: 104 mean_value: 117 mean_value: 123",
    "JPEG 256, crop 224": "crop_size: 224 mirror: true mean_value: 104 mean_value: 117 mean_value: 123",
    "JPEG 400x533, crop 224": "crop_size: 224 mirror: true mean_value: 104 mean_value: 117 mean_value: 123",
    "JPEG 400x533, augmented": "crop_size: 224 mirror: true resize_short: 256 color_param { std: 0.1 } "
                               "mean_value: 104 mean_value: 117 mean_value: 123",
}


def image(index: int, height: int, width: int) -> np.ndarray:
    """An image with edges, gradients and noise, about as slow to decode as a photograph."""
    rng = np.random.default_rng(index)
    small = cv2.resize(rng.integers(0, 256, (height // 24, width // 24, 3), np.uint8), (width, height),
                       interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        corner, size = rng.integers(0, min(height, width), 2), rng.integers(8, 120, 2)
        cv2.rectangle(small, corner.tolist(), (corner + size).tolist(), rng.integers(0, 256, 3).tolist(), -1)
    return np.clip(small + rng.normal(0, 6, small.shape), 0, 255).astype(np.uint8)


def encoded(task: str) -> list[bytes]:
    height, width = (256, 256) if "256" in task.split(",")[0] else (400, 533)
    return [cv2.imencode(".jpg", image(i, height, width), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
            for i in range(IMAGES)]


def spp_task(task: str) -> Callable[[], Any]:
    from spp.data.batches import Batches
    from spp.data.database import DatabaseWriter
    from spp.data.datum import DatumImages
    from spp.proto import caffe_pb2, text

    folder = tempfile.mkdtemp(prefix="spp-bench-")
    source = os.path.join(folder, "lmdb")
    with DatabaseWriter(source) as writer:
        for i, jpeg in enumerate(encoded(task)):
            datum = caffe_pb2.Datum(label=i % 10)
            if task.startswith("raw"):
                pixels = image(i, 256, 256).transpose(2, 0, 1)
                datum.channels, datum.height, datum.width = pixels.shape
                datum.data = pixels.tobytes()
            else:
                datum.data, datum.encoded = jpeg, True
            writer.put(f"{i:08d}".encode(), datum.SerializeToString())
    net = text.parse_net(f"layer {{ name: 'd' type: 'Data' transform_param {{ {TRANSFORM[task]} }} }}")
    batches = Batches(DatumImages(source), net.layer[0].transform_param, BATCH, caffe_pb2.TRAIN)

    def epoch() -> None:
        for _ in range(IMAGES // BATCH):
            batches.next()
    return epoch


def torch_task(task: str, processes: int) -> Callable[[], Any] | None:
    if task != "JPEG 400x533, augmented":
        return None
    import io

    import torch
    from PIL import Image, ImageOps

    torch.set_num_threads(1)
    mean = torch.tensor([123.0, 117.0, 104.0]).reshape(3, 1, 1)

    class Photos(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.files = encoded(task)

        def __len__(self) -> int:
            return len(self.files)

        def __getitem__(self, index: int) -> Any:
            rng = np.random.default_rng()
            photo = Image.open(io.BytesIO(self.files[index])).convert("RGB")
            photo = photo.resize((341, 256), Image.Resampling.BILINEAR)
            left, top = int(rng.integers(118)), int(rng.integers(33))
            photo = photo.crop((left, top, left + 224, top + 224))
            pixels = np.asarray(ImageOps.mirror(photo) if rng.random() < 0.5 else photo)
            return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() - mean, index % 10

    loader = torch.utils.data.DataLoader(Photos(), BATCH, num_workers=processes, persistent_workers=True)

    def epoch() -> None:
        for _ in loader:
            pass
    return epoch


def make(contender: str, task: str) -> Callable[[], Any] | None:
    return spp_task(task) if contender.startswith("spp") else torch_task(task, 2 if contender.endswith("2") else 1)


if __name__ == "__main__":
    turns.main(__file__, __doc__, TASKS, CONTENDERS, make)
