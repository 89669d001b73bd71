"""Data of detection and segmentation: annotations of any format, and the published pipelines.

``records``         an annotated image, whatever format it comes from
``coco`` …          the formats; ``find`` says which one a folder has
``sample``, ``geometry``, ``photometric``, ``cropping``  steps that transform image and annotations
``pipelines``       the steps of the four published methods
``batches``, ``orientation``  samples put together, and which come together
"""
