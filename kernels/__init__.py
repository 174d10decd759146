"""TT-Lang kernels, one family a file. They arrive with the Tenstorrent backend."""
