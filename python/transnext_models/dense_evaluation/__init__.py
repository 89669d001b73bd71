"""Scores of detection and segmentation, beside the published ones.

``gathering``          the answers of several processes, each image once
``average_precision``  COCO's average precision of boxes and masks, by pycocotools
``mean_iou``           intersection over union of label maps, summed over a set
``published``, ``rows``  the paper's numbers, and rows that the files of an evaluation take
``options``, ``sets``  what an evaluation is asked for, and on which images
``subjects``, ``loading``, ``engine``  the models, the images, and each image once through a model
``journal``, ``saved``  answers so far, and answers as files
``table``, ``run``     rows in the first process, and the whole evaluation
"""
