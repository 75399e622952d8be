"""Corruptions of test images, as published for CIFAR-10-C."""
