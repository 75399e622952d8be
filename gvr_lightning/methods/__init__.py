"""The methods: gradient regularizers, from losses and gradients alone. Imports torch only."""
