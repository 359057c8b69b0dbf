"""Step parallelism: devices evaluate successive model calls of a sampler at the same time.

A sampler is a deterministic function of its list of predictions. `rounds` evaluates several of its calls at once:
`extrapolate` predicts the model's outputs in between, `replay` computes the latents of the calls from them, and calls
whose latents turn out too far off are evaluated again. `samplers` lists the samplers that allow this.
"""
