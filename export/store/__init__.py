"""What lies in an export's directory: manifest, selected components, samples, and the command that makes it again."""
