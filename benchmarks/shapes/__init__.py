"""What is measured: cases, candidates and the sizes of TransNeXt-Tiny's stages."""
