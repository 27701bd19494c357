"""Reads a directory of event files with TensorBoard's own reader and prints what it finds, one line a number.

    python check.py DIRECTORY
"""

import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray


def main(directory):
    events = EventAccumulator(directory, size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    for tag in sorted(tags["scalars"]):
        for event in events.Scalars(tag):
            print(f"{tag} {event.step} {event.value:.9g}")
    for tag in sorted(tags["tensors"]):
        for event in events.Tensors(tag):
            tensor = make_ndarray(event.tensor_proto)
            if tensor.dtype == object:
                print(f"{tag} {event.step} {tensor[0].decode()!r}")
            else:
                print(f"{tag} {event.step} {float(tensor):.9g}")


if __name__ == "__main__":
    main(sys.argv[1])
