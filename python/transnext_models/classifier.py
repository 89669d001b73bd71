"""The classifier, under the name that scripts import it by."""

from .classification.classifier import Classified, Classifier, Prediction

__all__ = ["Classified", "Classifier", "Prediction"]
