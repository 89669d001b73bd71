"""Image classification: files in, names of classes and their probabilities out."""
