"""Training and fine-tuning of classifiers: `transnext train`.

A thin layer over timm (data, augmentation, mixup, optimiser, schedule) and Lightning (loop,
checkpoints, resuming, precision, several devices). `recipes` says what, `run.train` does it. Needs
the packages of the extra `train`, which only the modules that use them import.
"""
