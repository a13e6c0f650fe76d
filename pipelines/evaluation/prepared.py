"""Evaluations with all that they need, read and checked before the first measure takes hours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from dali_cutmix import Boxes
from evaluation.attacks import check_attacks, measure_attacks
from evaluation.box_files import read_boxes
from evaluation.cam import Cam
from evaluation.classification import measure_classification
from evaluation.corruptions import check_baseline, measure_corruptions, strengths_of
from evaluation.flags import READERS, Settings, device_of
from evaluation.image_lists import digest, listed, read_groups, spread
from evaluation.in_between import measure_in_between
from evaluation.localisation import digest_of_boxes, measure_localisation
from evaluation.mixed_cam import measure_mixed_cam
from evaluation.occlusion import measure_occlusion
from evaluation.outliers import measure_outliers
from evaluation.predictions import Images
from evaluation.refusal import refuse
from evaluation.result import Result, fingerprint
from evaluation.saved import Evaluation, load
from evaluation.smoke import untrained
from evaluation.subject import Subject, load_subject
from harness.processes import CONSOLE


@dataclass(frozen=True)
class Data:
    """Hold the images of an evaluation, and what belongs to them.

    Attributes:
        images: The images that are measured.
        listed: How many images the folder holds.
        digest: Digest of ``images``.
        groups: Group of each image, or None.
        other: Images of other classes, or None.
        boxed: Images with boxes and their boxes, or None.
    """

    images: Images
    listed: int
    digest: str
    groups: list[str] | None = None
    other: Images | None = None
    boxed: tuple[Images, Boxes] | None = None


@dataclass(frozen=True)
class Prepared:
    """Hold a classifier and all that its measures need.

    Attributes:
        spec: Where the classifier comes from, as of `load_subject`.
        subject: The classifier.
        data: The images.
        settings: Flags of the command.
        baseline: Numbers that errors on corrupted images are relative to, or None.
    """

    spec: str
    subject: Subject
    data: Data
    settings: Settings
    baseline: Mapping[str, float] | None = None

    def expected(self) -> Evaluation:
        """Return the evaluation without its numbers, for a comparison with finished ones."""
        results = tuple(
            Result(name, name, {}, settings=self._settings_of(name))
            for name in self.settings.chosen
        )
        return Evaluation(self.subject.name, results, images=self.data.digest)

    def measure(self, name: str) -> Result:
        """Return the result of a measure, by its name, with the settings that flags set."""
        result = self._measured(name)
        return dataclasses.replace(result, settings={**self._settings_of(name), **result.settings})

    def _measured(self, name: str) -> Result:
        subject, images, seed = self.subject, self.data.images, self.settings.seed
        layer = self.settings.cam_layer
        if name == "classification":
            return measure_classification(subject, images, groups=self.data.groups)
        if name == "occlusion":
            return measure_occlusion(subject, images)
        if name == "in_between":
            return measure_in_between(subject, images, seed=seed)
        if name == "attacks":
            eps, steps = self.settings.attack_eps, self.settings.attack_steps
            return measure_attacks(subject, images, eps=eps, num_steps=steps, seed=seed)
        if name == "corruptions":
            return measure_corruptions(subject, images, baseline=self.baseline, seed=seed)
        if name == "outliers":
            return measure_outliers(subject, images, other=self.data.other, seed=seed)
        if name == "mixed_cam":
            return measure_mixed_cam(subject, images, cam_layer=layer)
        assert self.data.boxed is not None  # check_flags refuses localisation without boxes
        return measure_localisation(subject, *self.data.boxed, cam_layer=layer)

    def _settings_of(self, name: str) -> dict[str, Any]:
        """Return what flags set of a measure, as `Result` keeps settings."""
        settings, data = self.settings, self.data
        drawn = {"seed": settings.seed, "batch_size": settings.batch_size}
        if name == "classification" and data.groups is not None:
            return {"groups": fingerprint(data.groups)}
        if name == "attacks":
            eps, steps = settings.attack_eps, settings.attack_steps
            return {"eps": eps, "num_steps": steps, **drawn}
        if name == "corruptions":
            return {"strengths": strengths_of(self.subject)[0], **drawn}
        if name == "outliers":
            other = None if data.other is None else digest(data.other.source)
            return {"other": other, **drawn}
        if name == "localisation" and data.boxed is not None:
            return {"boxes": digest_of_boxes(data.boxed[1])}
        return {"seed": settings.seed} if name == "in_between" else {}

    def about(self) -> dict[str, Any]:
        """Return the facts at the end of a report."""
        settings, data, subject = self.settings, self.data, self.subject
        count, classes = len(data.images.source), len(data.images.source.classes)
        images = f"{count:,} images"
        if count < data.listed:
            images = f"{count:,} of {data.listed:,} images, evenly spread,"
        facts = {
            "checkpoint": self.spec,
            "data": f"{settings.data}: {images} of {classes:,} classes",
            "transform": str(subject.transform),
        }
        if not subject.knows_normalization:
            facts["normalization"] = _guess(subject)
        facts |= {f: str(getattr(settings, f)) for f in READERS if getattr(settings, f) is not None}
        if data.boxed is not None:
            facts["boxes"] = f"{settings.boxes}: {len(data.boxed[1]):,} images with boxes"
        return facts | {
            "parameters": f"{sum(p.numel() for p in subject.model.parameters()):,}",
            "seed": settings.seed,
            "device": str(subject.device),
            "versions": f"dali-cutmix {version('dali-cutmix')}, torch {torch.__version__}",
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }


def prepare(settings: Settings, specs: Sequence[str]) -> list[Prepared]:
    """Load classifiers and the images that all of them see, and refuse what no measure can use.

    Args:
        settings: Flags that `check_flags` accepts.
        specs: Where each classifier comes from, as of `load_subject`.

    Raises:
        SystemExit: With a sentence that names the flag, the value and the way out.
    """
    if not specs:
        return []
    data = _data(settings)
    device = device_of(settings)
    return [_prepared(settings, spec, data, device) for spec in specs]


def _data(settings: Settings) -> Data:
    """Read the images, and the files beside them."""
    if settings.data is None:
        refuse("`data` must be a folder of images. Pass `--data DIR`, or `--smoke` alone.")
    val = settings.data / "val"
    every = listed("data", val if val.is_dir() else settings.data)
    source = spread(every, settings.max_images)
    between = {"in_between", "mixed_cam"} & set(settings.chosen)
    if between and len(np.unique(source.targets)) < 2:
        refuse(
            f"`data` must hold images of two classes for {' and '.join(sorted(between))}, got "
            f"images of one in {settings.data}. Pass more images, or other `--measures`.",
        )
    images = Images(source, settings.batch_size, settings.workers)
    other, boxed = None, None
    if settings.other is not None:
        other = dataclasses.replace(images, source=listed("other", settings.other))
    if settings.boxes is not None:
        with_boxes, boxes = read_boxes(settings.boxes, source)
        boxed = dataclasses.replace(images, source=with_boxes), boxes
    groups = None if settings.groups is None else read_groups(settings.groups, source)
    return Data(images, len(every), digest(source), groups, other, boxed)


def _prepared(settings: Settings, spec: str, data: Data, device: torch.device) -> Prepared:
    """Load a classifier, and try what its measures ask of it."""
    classes = data.images.source.classes
    if settings.smoke:
        subject = untrained(spec, classes, device)
    else:
        subject = load_subject(
            spec,
            classes,
            device,
            mean=settings.mean,
            std=settings.std,
            size=settings.size,
            resize=settings.resize,
        )
    chosen = settings.chosen
    if not subject.knows_normalization:
        CONSOLE.print(f"{subject.name}: {_guess(subject)}", markup=False)
    if "attacks" in chosen:
        check_attacks(subject, settings.attack_eps, settings.attack_steps)
    if {"localisation", "mixed_cam"} & set(chosen):
        cam = Cam(subject.model, subject.size, settings.cam_layer)
        layer = cam.layer or "the model"
        CONSOLE.print(f"{subject.name}: {cam.kind} of layer {layer}", markup=False)
    baseline = _baseline(settings, subject, data) if settings.baseline is not None else None
    return Prepared(spec, subject, data, settings, baseline)


def _baseline(settings: Settings, subject: Subject, data: Data) -> dict[str, float]:
    """Return the numbers that errors are relative to, of the same images and corruptions."""
    path, way_out = settings.baseline, "Evaluate the baseline anew with equal"
    assert path is not None
    evaluation = load(path, "baseline")
    results = {result.name: result for result in evaluation.results}
    if "corruptions" not in results:
        refuse(
            f"`baseline` must be an evaluation with corruptions, got {path} with "
            f"{', '.join(results) or 'no measure'}. {way_out} `--measures`.",
        )
    if evaluation.images != data.digest:
        refuse(
            f"`baseline` must be an evaluation of the same images, got {path} with others. "
            f"{way_out} `--data` and `--max-images`.",
        )
    result, (published, _) = results["corruptions"], strengths_of(subject)
    if (theirs := result.settings.get("strengths", published)) != published:
        refuse(
            f"`baseline` must have the corruptions of {published}, which inputs of "
            f"{min(subject.size)} px get, got those of {theirs} in {path}. {way_out} `--size`.",
        )
    check_baseline(result.numbers)
    return dict(result.numbers)


def _guess(subject: Subject) -> str:
    """Return the sentence about a normalization that nobody told."""
    transform = subject.transform
    return (
        f"the normalization is a guess, mean {transform.mean} and std {transform.std}. Pass "
        "`--mean` and `--std` as the model was trained with."
    )
