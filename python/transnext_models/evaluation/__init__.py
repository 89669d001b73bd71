"""Evaluation: accuracy, robustness and sizes, by `transnext evaluate`.

`image_sets`, `class_lists`  the sets as data: images, classes, folders
`trees`, `validation`, `listing`, `corruptions`, `plan`  find the images, name what is wrong
`preparation`, `loading`, `engine`  from files to answers, on any number of processes
`answers`, `corruption_error`, `rows`, `published`  from answers to rows of numbers
`results`, `predictions`  the files, whole after every row
`models`  what is evaluated: TransNeXt in its modes, and timm's models
`run`, `outcome`  all of it; `figure` draws accuracy over image sizes

Needs the packages of the extra `evaluate`.
"""
