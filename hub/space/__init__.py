"""
A page that walks through the revisions of a run: what each of them says of an image, what was learned and forgotten.

    python -m hub.space org/name
    python -m hub.space --local OUTPUT_DIR

`__main__` reads the command line, `app` builds the page, `revisions` loads models when they are asked for; `answers`,
`attention` and `changes` compute what is shown, `html` writes it, `push` publishes the page as a Space. Gradio is
imported by `app` alone.
"""
