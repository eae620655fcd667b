"""Unlearning methods, one file each: (conditioner, denoiser, concept, config) in, an Erasure out."""
