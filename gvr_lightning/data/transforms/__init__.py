"""Transforms of whole batches of bytes, a draw for each image. Import torch only, and never wait for a device."""
