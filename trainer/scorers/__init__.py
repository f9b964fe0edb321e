"""Scores of texts, boxes and arrays, each as its benchmark's official program gives it. They know no model."""
