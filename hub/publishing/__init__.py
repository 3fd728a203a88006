"""Publishing a run: one commit and one tag a step, made once whatever goes wrong on the way."""
