"""Publishing a run: one commit and one tag a step, made exactly once despite failures on the way."""
