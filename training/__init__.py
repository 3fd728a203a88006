"""Class-incremental training of DyTox: data in steps, methods, rehearsal memory, metrics and the training script."""
