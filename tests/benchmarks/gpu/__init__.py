"""``make gpu``: what one GPU, or two, can tell in a single call of under 8 minutes; see ``__main__``."""
