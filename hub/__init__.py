"""Publishing: step folders, model cards and figures on the Hugging Face Hub, or on a Hub in a folder."""
