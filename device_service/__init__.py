"""The device service: owns one accelerator and streams `Decode` over token ids."""
