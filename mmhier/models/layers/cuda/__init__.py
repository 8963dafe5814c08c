"""Forms of the layers that are faster on a GPU."""
