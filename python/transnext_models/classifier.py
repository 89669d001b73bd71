"""The classifier, under its short import path."""

from .classification.classifier import Classified, Classifier, Prediction

__all__ = ["Classified", "Classifier", "Prediction"]
