"""Workers as processes of this machine: the first Launcher."""
