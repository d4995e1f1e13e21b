"""Detection of images that are out of distribution (OOD): unlike the training slices."""
