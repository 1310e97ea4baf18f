"""Data that ships with the package: the embedded network's weights, their recipe, and a note on fonts."""
