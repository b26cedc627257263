"""The worker of examples/py_worker.rs: numpy's, which Rust need not know."""

import numpy

import teamster


@teamster.rpc
def spectrum(samples: bytes) -> dict:
    """The strongest frequency of a signal, in cycles for all of it, and the signal without anything else."""
    signal = numpy.frombuffer(samples, dtype="<f4")  # where the bytes lie: nothing is copied
    transform = numpy.fft.rfft(signal)
    peak = int(numpy.argmax(numpy.abs(transform[1:]))) + 1
    alone = numpy.zeros_like(transform)
    alone[peak] = transform[peak]
    return {"peak": peak, "cleaned": numpy.fft.irfft(alone, signal.size).astype("<f4")}


teamster.run()
