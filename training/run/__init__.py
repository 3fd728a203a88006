"""
A run on disk: what it works with, where it starts, and what it leaves behind.

    setup.py             everything a run works with, and the checks before training (checks.py)
    resume.py            where a run starts; the rule stands in `resume`
    run_folder.py        `output_dir`: one recipe (recipe.py), finished steps, one run at a time
    model.py             the model: made, loaded, rebuilt from a saved state
    continuation.py      a published step to continue (model_source.py), and its memory (published_memory.py)
    results.py           adds a step to the results, and prints them
    comparison.py        numbers measured again beside the recorded ones, for training/evaluate.py
"""
