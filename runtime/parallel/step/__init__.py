"""Step parallelism: devices work on neighbouring model calls at the same time.

A sampler is a deterministic function of its list of predictions. `rounds` asks the model for several of its calls at
once, at inputs that `inputs` guesses from what `extrapolate` says the predictions in between will be; what turns out to
have been guessed too far off is asked again. `samplers` says which samplers can be treated this way.
"""
