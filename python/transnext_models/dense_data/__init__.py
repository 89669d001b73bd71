"""Data of detection and segmentation: annotations of any format, and the published pipelines.

``find``            which format a folder holds, and its two splits
``coco``, ``yolo``, ``voc``, ``masks``  readers of each format; ``shapes`` are masks of objects
``coco_results``    what detectors found, in COCO's form
``archived``        images in the archives of a download
``records``         an annotated image, whatever format it comes from; ``reading`` its files
``report``, ``errors``  what was treated, and what cannot be
``geometry``, ``cropping``, ``photometric``  steps that transform a ``sample``, with its ``draws``
``opencv_colours``  colours as OpenCV's
``pipelines``       the steps of the four published methods
``datasets``, ``orientation``, ``batches``  samples of a run, which come together, and put together
``digit_scenes``    a small real set, digits on photographs

Polygons take the extra `dense`.
"""
