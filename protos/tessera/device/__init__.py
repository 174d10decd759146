"""Generated from the contracts by `make proto`."""
