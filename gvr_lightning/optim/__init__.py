"""Optimizer wrappers and learning-rate schedules. Imports torch only."""
