"""Lineage: datasets on disk, manifests, data versions, gates."""
