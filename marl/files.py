"""Regular files only, see :mod:`marl_runtime.files`."""

from marl_runtime.files import WrongSizeError, opened, read, write_new

__all__ = ["WrongSizeError", "opened", "read", "write_new"]
