"""The training loop: phases, epochs, evaluation and the state of a step."""
