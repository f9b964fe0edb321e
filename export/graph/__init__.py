"""The exported graphs: what becomes a component, how it is traced, its precision and its cache layout."""
