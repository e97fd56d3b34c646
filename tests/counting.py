"""A file that several test files read through."""

import io


class Counting(io.BytesIO):
    """A file that knows which of its bytes were read."""

    def __init__(self, data):
        super().__init__(data)
        self.touched = set()

    def read(self, size=-1):
        start = self.tell()
        data = super().read(size)
        self.touched |= set(range(start, start + len(data)))
        return data
