"""From predictions to a report."""
