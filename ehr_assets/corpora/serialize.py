"""The front door of serialization: a MEDS frame becomes pieces in the corpus' format."""

import polars as pl

from ehr_assets.corpora.pieces import Pieces, in_availability_order
from ehr_assets.corpora.smb import serialize_smb
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.corpora.tagged import serialize_tagged

__all__ = ["Pieces", "in_availability_order", "serialize"]


def serialize(events: pl.DataFrame, codes: pl.DataFrame, spec: CorpusSpec) -> Pieces:
    """Lays out the records of whole subjects in `spec.format`.

    Args:
        events: columns of a MEDS frame with `available_time` and `section`, in its order.
        codes: `metadata/codes.parquet`: code, description and, if there is one, unit.
        spec: the format and its settings.

    Raises:
        DatasetError: a section is not one of the eight.
    """
    layout = serialize_smb if spec.format == "smb" else serialize_tagged
    return layout(events, codes, spec)
