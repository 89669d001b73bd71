"""What detection and segmentation share.

``published``        the published models as plain data; ``loading`` their weights
``classes``          names, colours and numbers of COCO's and ADE20K's classes
``backbone``, ``batches``, ``processes``  where the heads stand, what enters them, and in how many
``convolutions``, ``deformable_attention``, ``transformer_layers``, ``sine_positions``  layers
``hungarian``, ``point_sampling``  of losses
``opencv_resize``    images, masks and label maps resized as OpenCV does it
``run_lengths``, ``found_objects``  masks, and what was found, as they are scored and stored
"""
