"""The torch bridge: the only wing that imports torch."""
