"""What the nodes set when they run and the patches read when the model samples."""

OPTIONS = {"sharpness": 1.0, "layers": {"first": 0, "log": print}}
DAMPING = 0.0


class Settings:
    """Of this pack's own class, and with something in it that is no plain data."""

    def __init__(self):
        self.tint = 0.0
        self.say = print


SETTINGS = Settings()
