"""The version, in the one place that the build and `rmtland.__version__` read, and those of other packages."""

__version__ = "0.1.0.dev0"


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, of this package and of others; "absent" for one that is not installed."""
    import importlib.metadata
    import platform

    found = {"python": platform.python_version(), "rmtland": __version__}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
