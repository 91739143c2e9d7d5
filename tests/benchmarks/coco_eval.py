"""python -m tests.benchmarks.coco_eval: loading and evaluating at COCO val2017's size, beside two libraries.

5,000 images, 80 classes, 36,781 objects and 100 detections an image, synthesised; ground truth and detections lie
in files, as pycocotools wants them. Each evaluation runs alone in its own process, whose peak memory is printed.
"""

import contextlib
import importlib
import io
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PICTURES, CLASSES, OBJECTS, DETECTIONS = 5000, 80, 36781, 100
NAMES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


def synthesise(folder: Path) -> None:
    """Writes truth.json in COCO's format and detections.json, whose rows lie near an object half of the time."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, PICTURES, OBJECTS)
    label = rng.integers(1, CLASSES + 1, OBJECTS)
    size = np.exp(rng.uniform(np.log(8), np.log(300), (OBJECTS, 2)))
    boxes = np.concatenate([rng.uniform(0, 340, (OBJECTS, 2)), size], axis=1)
    annotations = [
        {
            "id": i + 1,
            "image_id": int(image[i]),
            "category_id": int(label[i]),
            "bbox": [round(float(v), 2) for v in boxes[i]],
            "area": round(float(size[i].prod() * 0.6), 2),
            "iscrowd": int(i % 80 == 0),
            "segmentation": [[round(float(v), 2) for v in rng.uniform(0, 640, 40)]],
        }
        for i in range(OBJECTS)
    ]
    images = [{"id": i, "file_name": f"{i:012}.jpg", "width": 640, "height": 640} for i in range(PICTURES)]
    categories = [{"id": i + 1, "name": f"class {i + 1}"} for i in range(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "truth.json").write_text(json.dumps(content))

    rows = []
    of_image = [np.flatnonzero(image == i) for i in range(PICTURES)]
    for i, objects in enumerate(of_image):
        found = rng.uniform(8, 300, (DETECTIONS, 4))
        labels = rng.integers(1, CLASSES + 1, DETECTIONS)
        if len(objects):
            near = rng.choice(objects, DETECTIONS // 2)
            found[: len(near)] = boxes[near] * rng.normal(1, 0.05, (len(near), 4))
            labels[: len(near)] = label[near]
        for box, category, score in zip(found, labels, rng.random(DETECTIONS), strict=True):
            bbox = [round(float(v), 2) for v in box]
            rows.append({"image_id": i, "category_id": int(category), "bbox": bbox, "score": round(float(score), 4)})
    (folder / "detections.json").write_text(json.dumps(rows))


def by_pycocotools(folder: Path) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return as_guided(COCO, COCOeval, folder)


def by_faster(folder: Path) -> list[float]:
    from faster_coco_eval import COCO, COCOeval_faster

    return as_guided(COCO, COCOeval_faster, folder)


def as_guided(coco: Any, evaluator: Any, folder: Path) -> list[float]:
    """As the guides of both libraries say."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco(str(folder / "truth.json"))
        evaluation = evaluator(truth, truth.loadRes(str(folder / "detections.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[: len(NAMES)]]


def by_us(folder: Path) -> list[float]:
    """Like a validation, where detections come image by image as arrays."""
    from data.coco import read_coco
    from tasks.detection.coco_eval import CocoEvaluator, summary

    labels, records = read_coco(folder / "truth.json", folder)
    evaluator = CocoEvaluator()
    with np.load(folder / "detections.npz") as arrays:
        boxes, scores, classes = (arrays[name] for name in ("boxes", "scores", "labels"))
    for record, *found in zip(records, boxes, scores, classes, strict=True):
        evaluator.add(record.image_id, *found)
    metrics = summary(evaluator.evaluate(records, labels), labels)
    return [metrics[name] for name in NAMES]


WAYS = {"ours": by_us, "faster-coco-eval": by_faster, "pycocotools": by_pycocotools}


def measured(way: str, folder: Path, answers: "multiprocessing.Queue[tuple[list[float], float, float]]") -> None:
    for name in ("data.coco", "tasks.detection.coco_eval", "pycocotools.cocoeval"):
        importlib.import_module(name)  # import time is not compared
    start = time.perf_counter()
    stats = WAYS[way](folder)
    seconds = time.perf_counter() - start
    answers.put((stats, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def as_arrays(folder: Path) -> None:
    """The detections as a detector gives them: boxes (images, 100, 4) xyxy, scores, labels from 0."""
    rows = json.loads((folder / "detections.json").read_text())
    boxes = np.array([row["bbox"] for row in rows]).reshape(PICTURES, DETECTIONS, 4)
    boxes[..., 2:] += boxes[..., :2]
    scores, labels = (np.array([row[name] for row in rows]) for name in ("score", "category_id"))
    shape = (PICTURES, DETECTIONS)
    np.savez(folder / "detections.npz", boxes=boxes, scores=scores.reshape(shape), labels=labels.reshape(shape) - 1)


def main() -> None:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synthesise(folder)
        as_arrays(folder)
        found: dict[str, tuple[list[float], float, float]] = {}
        for way in WAYS:
            answers: multiprocessing.Queue[tuple[list[float], float, float]] = context.Queue()
            process = context.Process(target=measured, args=(way, folder, answers))
            process.start()
            found[way] = answers.get()
            process.join()
    for way, (stats, seconds, memory) in found.items():
        print(f"{way:18} {seconds:6.2f} s  {memory:5.2f} GB   AP {stats[0]:.6f}  AP50 {stats[1]:.6f}")
    for way in list(WAYS)[1:]:
        difference = max(abs(a - b) for a, b in zip(found["ours"][0], found[way][0], strict=True))
        ratio = found[way][1] / found["ours"][1]
        print(f"{ratio:.1f} times as fast as {way}; the twelve figures differ by at most {difference:.1e}")


if __name__ == "__main__":
    main()
