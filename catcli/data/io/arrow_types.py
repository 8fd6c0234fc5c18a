"""Arrow types that an operation or a format cannot have, and those that stand in for them."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

Leaf = Callable[[pa.DataType], pa.DataType]


def plain_types(table: pa.Table) -> pa.Table:
    """The table without text in views, dictionaries and run-end encoding, nested ones too: Arrow cannot take some rows of these."""
    return _cast(table, _plain_type)


def decode_dictionaries(table: pa.Table) -> pa.Table:
    """The table with the values of dictionaries in their place: an Arrow file has one dictionary a column, and a catalog one a batch."""
    return _cast(table, _value_type)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    return _value_type(kind)


def _value_type(kind: pa.DataType) -> pa.DataType:
    return _plain_type(kind.value_type) if pa.types.is_dictionary(kind) else kind


def _plain_words(kind: pa.DataType) -> pa.DataType:
    """A dictionary of text in views as one of plain text, from which Arrow knows a way to its values."""
    return pa.dictionary(kind.index_type, _plain_type(kind.value_type), kind.ordered) if pa.types.is_dictionary(kind) else kind


def _cast(table: pa.Table, leaf: Leaf) -> pa.Table:
    if leaf is _plain_type:  # no cast of Arrow's leads out of run-end encoding
        for number, field in enumerate(table.schema):
            if pa.types.is_run_end_encoded(field.type):
                chunks = [pc.run_end_decode(chunk) for chunk in table.column(number).chunks]
                table = table.set_column(number, field.with_type(field.type.value_type), pa.chunked_array(chunks, field.type.value_type))
    for step in (_plain_words, leaf):
        for number, field in enumerate(table.schema):
            kind = _mapped(field.type, step)
            if kind != field.type:
                column = table.column(number)
                # Arrow 26 loses items where it casts lists in views.
                changed = pa.chunked_array([column.to_pylist()], kind) if "list_view<" in str(field.type) else column.cast(kind)
                table = table.set_column(number, field.with_type(kind), changed)
    return table


def _mapped(kind: pa.DataType, leaf: Leaf) -> pa.DataType:
    """A type with ``leaf`` of each type in it that is not a list, struct or map."""
    types = pa.types

    def field(inner: pa.Field) -> pa.Field:
        return inner.with_type(_mapped(inner.type, leaf))

    if types.is_map(kind):
        return pa.map_(field(kind.key_field), field(kind.item_field), kind.keys_sorted)
    if types.is_struct(kind):
        return pa.struct([field(kind.field(number)) for number in range(kind.num_fields)])
    if types.is_fixed_size_list(kind):
        return pa.list_(field(kind.value_field), kind.list_size)
    for is_list, make in (
        (types.is_list, pa.list_),
        (types.is_large_list, pa.large_list),
        (types.is_list_view, pa.list_view),
        (types.is_large_list_view, pa.large_list_view),
    ):
        if is_list(kind):
            return make(field(kind.value_field))
    return leaf(kind)
