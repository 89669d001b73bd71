"""`report.html`: curves, classes and worst images of a run on one page, which needs no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..classification.preprocess import Preprocess
from .figures import confusion_picture, curves_picture, image_picture
from .history import Row
from .label_mistakes import LabelMistakes
from .mistakes import Mistakes

__all__ = ["render_page", "render_report"]

_MOST_CLASSES = 40  # of a confusion matrix that one can read
_LISTED = 20

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
body { font-family: sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
td, th { padding: 0.2em 0.8em; text-align: left; border-bottom: 1px solid #ddd; }
td.number { text-align: right; }
img { max-width: 100%; }
.images { display: flex; flex-wrap: wrap; gap: 1em; }
figure { margin: 0; width: 11em; }
figure img { width: 11em; }
figcaption { font-size: 0.85em; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<table>
{% for name, value in results %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</table>
<h2>Curves</h2>
<img alt="loss, accuracy and learning rate over the epochs" src="{{ curves }}">
{% if confusion %}<h2>Confusion</h2>
<p>{{ says }}</p>
<img alt="confusion matrix" src="{{ confusion }}">
<table>
<tr><th>class</th><th>taken for</th><th>images</th></tr>
{% for row in confused %}<tr><td>{{ row[0] }}</td><td>{{ row[1] }}</td>
<td class="number">{{ row[2] }}</td></tr>
{% endfor %}</table>
<h2>Classes with the fewest right answers</h2>
<table>
<tr><th>class</th><th>right</th></tr>
{% for row in classes %}<tr><td>{{ row[0] }}</td><td class="number">{{ row[1] }}</td></tr>
{% endfor %}</table>
{% else %}<h2>Classes</h2>
<p>{{ says }}</p>
<table>
<tr>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in classes %}<tr><td>{{ row[0] }}</td>{% for value in row[1:] %}
<td class="number">{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endif %}{% if images %}<h2>Images with the largest loss</h2>
<div class="images">
{% for worst in images %}<figure><img alt="" src="{{ worst.picture }}"><figcaption>
<b>{{ worst.label }}</b>, taken for {{ worst.answer }}, loss {{ worst.loss }}<br>{{ worst.name }}
</figcaption></figure>
{% endfor %}</div>
{% endif %}<h2>Settings</h2>
<table>
{% for name, value in settings %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</table>
</body>
</html>
"""


def render_report(
    configuration: Mapping[str, Any],
    rows: Sequence[Row],
    best: Mapping[str, float] | None,
    mistakes: Mistakes | LabelMistakes,
    preprocess: Preprocess,
) -> str:
    """Return the page.

    Parameters
    ----------
    configuration : Mapping[str, Any]
        Of the run.
    rows : Sequence[Row]
        One per epoch.
    best : Mapping[str, float] | None
        Epoch and top-1 of the best validation.
    mistakes : Mistakes | LabelMistakes
        Of the best weights.
    preprocess : Preprocess
        Of the validation images.
    """
    classes = len(mistakes.confusion if isinstance(mistakes, Mistakes) else mistakes.classes)
    names = configuration.get("class_names") or [f"class {i}" for i in range(classes)]
    if isinstance(mistakes, LabelMistakes):
        of_kind = _of_labels(mistakes, names)
    else:
        of_kind = _of_confusion(mistakes, names)
    return render_page(
        configuration,
        results=_results(rows, best, mistakes),
        curves=curves_picture(rows),
        images=[
            {
                "picture": image_picture(worst.image, preprocess.mean, preprocess.std),
                "label": _listed(worst.labels, names),
                "answer": _listed(worst.answers, names),
                "loss": f"{worst.loss:.2f}",
                "name": worst.name,
            }
            for worst in mistakes.worst
        ],
        **of_kind,
    )


def render_page(configuration: Mapping[str, Any], **parts: Any) -> str:
    """Return the page of these parts and of the run's settings.

    Parameters
    ----------
    configuration : Mapping[str, Any]
        Of the run.
    **parts
        ``results`` (pairs), ``curves`` (a picture), ``says``, and either ``columns`` and
        ``classes`` (rows) or ``confusion``, ``confused`` and ``classes``; ``images`` where there
        are any.
    """
    from jinja2 import Environment

    resolved = configuration["resolved"]
    page = Environment(autoescape=True).from_string(_PAGE)
    return page.render(
        title=f"{resolved['model']}, recipe {resolved['recipe']}",
        settings=sorted(resolved.items()),
        **parts,
    )


def _listed(classes: Sequence[int], names: Sequence[str]) -> str:
    return ", ".join(names[i] for i in classes) or "none"


def _of_confusion(mistakes: Mistakes, names: Sequence[str]) -> dict[str, Any]:
    """Return what the page says of images of one class each."""
    shown, says = _shown(mistakes)
    shares = [(share, i) for i, share in enumerate(mistakes.of_classes()) if share is not None]
    return {
        "confusion": confusion_picture(
            mistakes.confusion[shown][:, shown], [names[i] for i in shown]
        ),
        "says": says,
        "confused": [(names[a], names[b], n) for a, b, n in mistakes.most_frequent(_LISTED)],
        "classes": [(names[i], f"{share:.1%}") for share, i in sorted(shares)[:_LISTED]],
    }


def _of_labels(mistakes: LabelMistakes, names: Sequence[str]) -> dict[str, Any]:
    """Return what the page says of images with several labels."""
    says = (
        f"The best weights on {mistakes.images:,} validation images. Precision, recall and F1 are "
        "those of the answers above one half; the class with the lowest average precision is first."
    )
    if len(names) > _MOST_CLASSES:
        says += f" {_MOST_CLASSES} classes of {len(names)}."
    return {
        "says": says,
        "columns": ("class", "images", "average precision", "precision", "recall", "F1"),
        "classes": [
            (
                names[i],
                f"{one.images:,}",
                *map(_share, (one.average_precision, one.precision, one.recall, one.f1)),
            )
            for i, one in mistakes.weakest(_MOST_CLASSES)
        ],
    }


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _shown(mistakes: Mistakes) -> tuple[list[int], str]:
    """Return the classes in the picture, and what it shows."""
    confusion = mistakes.confusion
    says = f"The best weights on {mistakes.images:,} validation images, in shares of each class."
    if len(confusion) <= _MOST_CLASSES:
        return list(range(len(confusion))), says
    wrong = confusion.sum(dim=1) - confusion.diagonal()
    most = sorted(wrong.topk(_MOST_CLASSES).indices.tolist())
    return most, f"{says} The {_MOST_CLASSES} classes with the most mistakes of {len(confusion)}."


def _results(
    rows: Sequence[Row], best: Mapping[str, float] | None, mistakes: Mistakes | LabelMistakes
) -> list[tuple[str, str]]:
    last = rows[-1]
    results = [("epochs", str(last["epoch"] + 1))]
    if best is not None:
        results.append(("best top-1", f"{best['val_top1']:.2%} after epoch {best['epoch']}"))
    exported = "of the exported best weights"
    if isinstance(mistakes, Mistakes):
        results.append((f"top-1 {exported}", f"{mistakes.accuracy:.2%}"))
    else:
        results += [
            (f"mean average precision {exported}", _share(mistakes.mean_average_precision)),
            (f"mean F1 {exported}", _share(mistakes.mean_f1)),
        ]
    for name, text in (("val_top1", "last top-1"), ("val_top5", "last top-5")):
        if name in last:
            results.append((text, f"{last[name]:.2%}"))
    results.append(("last training loss", f"{last['train_loss']:.4f}"))
    return results
