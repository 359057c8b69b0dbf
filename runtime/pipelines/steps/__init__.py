"""Step parallelism under any pipeline: replays of its __call__, the noise levels of its scheduler, the rounds."""
