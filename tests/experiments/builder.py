"""What a program measures with, in the hands of a test."""


class Builder:
    """A program's `build_measure` that compiles once, counts, and can be stopped.

    Attributes:
      measured: the arguments of every measurement so far, without the callback, which is last.
      stop_after: how many measurements are made before the one that Ctrl-C ends; None for all.
    """

    def __init__(self, build_measure):
        self.build_measure = build_measure
        self.measure = None
        self.measured = []
        self.stop_after = None

    def __call__(self, *args):
        self.measure = self.measure or self.build_measure(*args)
        return self.count

    def count(self, *args):
        if len(self.measured) == self.stop_after:
            raise KeyboardInterrupt
        self.measured.append(args[:-1])
        return self.measure(*args)
