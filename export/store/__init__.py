"""The contents of an export's directory: manifest, selected components, samples, and the command that rebuilds it."""
