"""What a run costs: memory, operations, utilisation."""
