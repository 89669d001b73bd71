"""Scores of detection and segmentation, beside the published ones.

``detections``         what a detector found; as COCO's results, and gathered from processes
``average_precision``  COCO's average precision of boxes and masks, by pycocotools
``mean_iou``           intersection over union of label maps, summed over a set
``published``, ``rows``  the paper's numbers, and rows that the files of an evaluation take
"""
