"""A run on disk: its folder and recipe, how it resumes, and the model it continues."""
