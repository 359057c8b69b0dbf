"""xDiT's own pipelines on the pool: xfuser splits the model, we start it, stop it and, if asked, carry its messages."""
