"""Scripts of this repository, run from its root; not part of the package."""
