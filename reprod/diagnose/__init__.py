"""From a log of a crash to its cause. The log is read and never run; what is tried is tried on a device of this project."""
