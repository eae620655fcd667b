"""Diffusion models as unreel sees them: what reads prompts, what denoises, and everything that looks into a pipeline."""
