"""Reports: tables, figures, one HTML page."""
