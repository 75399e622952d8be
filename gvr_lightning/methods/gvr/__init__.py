"""Gradient-variance regularization (GVR)."""
