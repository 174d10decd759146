"""The stateless gateway: text in, text out, over one or more device services."""
