"""Images: splits, scenario, rehearsal memory, augmentation and batches."""
