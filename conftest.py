"""What the doctests of the package need."""

from importlib.util import find_spec

# The example of a module whose optional package is missing cannot run.
collect_ignore = [] if find_spec("bed_reader") else ["skddvi/io.py"]
