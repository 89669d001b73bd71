"""Training of detectors and segmentors: `transnext train detect` and `transnext train segment`.

Tasks of the trainer of `training`, which does all that is not said here.

``recipes``           the published hyper-parameters as plain data, and those for own data
``options``, ``settings``  what a run is asked for, and what it is
``data``, ``samples`` loaders and their samples, on what `dense_data` reads
``parameter_groups``, ``rates``  which parameters decay and learn how fast
``module``, ``validation``  loss, optimiser, and scores
``tasks``             `DETECTION` and `SEGMENTATION`, for `training.run.train`
"""
