"""What a generator that yields its progress returns in the end."""


def done(work):
    """Run `work` to its end; its events are let go."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value
