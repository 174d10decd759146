"""One module a kernel family, each with its table `CASES`."""
