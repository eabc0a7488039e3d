"""What the rules share: a mask and a reason make a column of reasons."""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.curate.reasons import Reason


def dropped_where(mask: pa.BooleanArray, reason: Reason) -> pa.StringArray:
    """`reason` where `mask` is true, null (keep) elsewhere."""
    return pc.if_else(mask, pa.scalar(str(reason)), pa.scalar(None, pa.string()))


def one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one array, of its type even where it has no rows."""
    if isinstance(column, pa.Array):
        return column
    # A chunked array without chunks does not combine to an array of its type.
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
