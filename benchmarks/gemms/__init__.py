"""The GEMMs and convolutions of a model by themselves, each in the fastest way found."""
