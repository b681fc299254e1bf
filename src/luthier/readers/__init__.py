"""Reading training curves wherever they were logged, one file a format."""

from luthier.readers.assemble import Run, assemble
from luthier.readers.find import FORMATS, read_runs
from luthier.readers.pairing import Asked, Pairing, pair
from luthier.readers.recording import Recording

__all__ = ["FORMATS", "Asked", "Pairing", "Recording", "Run", "assemble", "pair", "read_runs"]
