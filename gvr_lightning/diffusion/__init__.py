"""Denoising diffusion: the forward process, samplers, and the diffusers pipeline format."""
