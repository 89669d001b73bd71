"""What the first process does: it keeps the rows, the answers so far, and the saved predictions."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from ..checkpoints.digest import sha256
from ..dense.found_objects import FoundObjects
from ..dense_data.coco_results import write_coco_results
from ..evaluation.engine import Machine, Speed
from ..evaluation.outcome import Outcome, Watcher
from ..evaluation.results import Results
from ..evaluation.rows import Row
from .average_precision import AveragePrecision, average_precision
from .engine import Round
from .journal import Journal
from .mean_iou import MeanIoU, PixelCounts, mean_iou
from .options import DenseOptions
from .rows import DENSE, dense_row
from .saved import label_map_file, read_coco_results, read_label_map, write_label_map
from .sets import open_set
from .subjects import Described, Subject

__all__ = ["Table"]

BOX_AP, MASK_AP, MIOU = "box AP", "mask AP", "mIoU"
Found = FoundObjects | PixelCounts


class Table:
    """The rows of an evaluation, its set, and the answers that are there already.

    Parameters
    ----------
    options : DenseOptions
    watcher : Watcher
    outcome : Outcome
        Takes the rows.

    Attributes
    ----------
    whole : EvaluatedSet
        The annotated images.

    Raises
    ------
    ValueError, RuntimeError
        Annotations are broken, or the table cannot be written.
    """

    def __init__(self, options: DenseOptions, watcher: Watcher, outcome: Outcome) -> None:
        self._options = options
        self._watcher = watcher
        self._outcome = outcome
        self._results = Results(options.output, DENSE)
        self.whole = open_set(options)
        self._results.check_writable()
        if self._results.rows:
            self._results.write()  # a process killed between its files left one behind
        for line in self.whole.annotated.report.lines():
            watcher.remark(f"{self.whole.annotated.source}: {line}")

    # -- a model's answers ------------------------------------------------------------------------

    def checked(self, subject: Subject) -> Subject:
        """Return a model, whose classes must be those of the set."""
        annotated = self.whole.annotated
        if subject.num_classes != annotated.num_classes:
            raise ValueError(
                f"model: {subject.described.name} has {subject.num_classes} classes, "
                f"{annotated.source} has {annotated.num_classes}: needs weights of its classes"
            )
        return subject

    def missing(self, subject: Subject, machine: Machine) -> list[str]:
        """Return the metrics to measure: none where all rows are there, which the outcome takes."""
        keys = {
            metric: self._key(subject.described, metric, machine)
            for metric in self._metrics(subject.has_masks)
        }
        if not self._is_saved(subject) or not all(map(self._results.has, keys.values())):
            return list(keys)
        for key in keys.values():
            self._outcome.rows += [row for row in self._results.rows if DENSE.same(row, key)]
        return []

    def journal(self, subject: Subject, machine: Machine) -> Journal:
        """Return the answers so far."""
        options = self._options
        if options.task == "segment" and options.save_predictions is not None:
            self._folder(options.save_predictions, subject).mkdir(parents=True, exist_ok=True)
        key = self._key(subject.described, "", machine)
        name = "-".join((key["model"], key["weights_sha256"][:8], key["set"], key["mode"]))
        identity = {
            **key,
            "images": self.whole.digest(),
            "save_predictions": str(options.save_predictions),
        }
        folder = options.output.with_name(f".{options.output.name}.answers")
        journal = Journal(folder / f"{name.replace('/', '-')}.jsonl", identity)
        if journal.answers:
            count = f"{len(journal.answers):,} of {len(self.whole.annotated):,}"
            self._watcher.remark(f"going on: {count} images are answered already")
        return journal

    def taking(self, subject: Subject, journal: Journal) -> Callable[[Round], None]:
        """Return what is called with the answers of a round."""
        save = self._options.save_predictions

        def take(done: Round) -> None:
            for one in done.answers:
                if one.answer.labels is not None and save is not None:
                    image = self.whole.annotated.images[one.position]
                    write_label_map(self._folder(save, subject), image, one.answer.labels)
            counted = [
                replace(one, answer=one.answer._replace(labels=None)) for one in done.answers
            ]
            journal.take(replace(done, answers=counted))
            self._watcher.advanced(len(counted))

        return take

    def finish(
        self,
        subject: Subject,
        machine: Machine,
        journal: Journal,
        metrics: Sequence[str],
        speed: Speed,
    ) -> None:
        """Save predictions and add the rows of answers to all images."""
        answers = [journal.answers[position] for position in range(len(self.whole.annotated))]
        found = [one.answer.found for one in answers]
        save = self._options.save_predictions
        if self._options.task == "detect" and save is not None:
            save.parent.mkdir(parents=True, exist_ok=True)
            objects = cast(list[FoundObjects], found)
            write_coco_results(save, objects, self.whole.annotated.category_ids)
        milliseconds = statistics.median(1000 * one.seconds for one in answers)
        for metric in metrics:
            row = self._row(subject.described, metric, found, journal.seconds, machine)
            row["details"]["model_milliseconds"] = round(milliseconds, 2)
            self._add(row, speed)
        journal.remove()

    def _metrics(self, has_masks: bool) -> list[str]:
        if self._options.task == "segment":
            return [MIOU]
        return [BOX_AP, MASK_AP] if has_masks and self.whole.annotated.has_masks else [BOX_AP]

    def _key(self, described: Described, metric: str, machine: Machine) -> Row:
        return {
            "model": described.name,
            "weights_sha256": described.weights_sha256,
            "metric": metric,
            "set": self.whole.name,
            "mode": described.mode,
            "precision": machine.precision,
            "backend": described.backend,
            "note": self.whole.note,
        }

    def _is_saved(self, subject: Subject) -> bool:
        save = self._options.save_predictions
        if save is None:
            return True
        if self._options.task == "detect":
            return save.exists()
        folder = self._folder(save, subject)
        return all(label_map_file(folder, one).exists() for one in self.whole.annotated.images)

    def _folder(self, save: Path, subject: Subject) -> Path:
        return save / subject.described.mode if len(self._options.modes) > 1 else save

    # -- saved predictions ------------------------------------------------------------------------

    def score_saved(self, place: Path) -> None:
        """Score saved answers; the row's model is the one that is named, if any.

        Raises
        ------
        ValueError
            They are broken, or not of this set; names the file, and the entry.
        """
        annotated = self.whole.annotated
        found: Sequence[Found]
        digest, has_masks = "", False
        if self._options.task == "detect":
            objects = read_coco_results(place, annotated, self.whole.others)
            has_masks = any(one.masks is not None for one in objects)
            found, digest = objects, sha256(place)
        elif not place.is_dir():
            raise ValueError(f"predictions: got {place}, needs a folder of label maps")
        else:
            count = annotated.num_classes
            found = [read_label_map(place, image, count) for image in annotated.images]
        described = Described(self._options.model or "predictions", digest)
        for metric in self._metrics(has_masks):
            self._add(self._row(described, metric, found, 0.0), None)

    # -- rows -------------------------------------------------------------------------------------

    def _row(
        self,
        described: Described,
        metric: str,
        found: Sequence[Found],
        seconds: float,
        machine: Machine | None = None,
    ) -> Row:
        annotated = self.whole.annotated
        return dense_row(
            described.name,
            metric,
            self._score(metric, found),
            image_set=self.whole.name,
            images=len(annotated),
            seconds=seconds,
            class_names=annotated.class_names,
            mode=described.mode,
            parameters=described.parameters,
            precision=machine.precision if machine else "",
            backend=described.backend,
            device=machine.device_name if machine else "",
            weights_sha256=described.weights_sha256,
            note=self.whole.note,
        )

    def _score(self, metric: str, found: Sequence[Found]) -> AveragePrecision | MeanIoU:
        if metric == MIOU:
            return mean_iou(cast(Sequence[PixelCounts], found))
        objects = cast(Sequence[FoundObjects], found)
        return average_precision(
            self.whole.annotated, objects, "bbox" if metric == BOX_AP else "segm"
        )

    def _add(self, row: Row, speed: Speed | None) -> None:
        self._results.add(row)
        self._outcome.rows += [one for one in self._results.rows if DENSE.same(one, row)]
        self._watcher.finished(row, speed)
