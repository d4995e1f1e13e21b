"""Collections on disk: scanning, validating, importing, subjects, splits, packing, augmentation."""
