"""Model cards, memory cards and figures of a step."""
