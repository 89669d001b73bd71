"""Tools of the project's developers, which no wheel holds."""
