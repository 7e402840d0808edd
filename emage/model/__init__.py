"""The network, the text encoders, the device it is on, and its checkpoint on disk and on the hub."""
