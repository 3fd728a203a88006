"""
A Hugging Face Hub in a folder; `python -m hub.local_server` starts it.

`server` and `http` speak HTTP. The routes are in `repositories`, `revisions`, `content`, `transfers` and `xet`; what
they serve is in `store`, which keeps each repository as `git` objects and large files (`lfs`).
"""
