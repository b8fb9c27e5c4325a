"""Values over time in bounded memory: when it is full, two neighbours become one."""

from collections.abc import Callable, Mapping, Sequence

LENGTH = 480

Row = list[float | None]


class Series:
    """Rows of columns that are merged by mean, or by maximum for those in `by_max`."""

    def __init__(
        self, columns: Sequence[str], *, by_max: Sequence[str] = (), length: int = LENGTH
    ) -> None:
        if length < 2 or length % 2:
            raise ValueError(f"length must be even and at least 2, got {length}")
        self.columns = tuple(columns)
        self._merges: list[Callable[[list[float]], float]] = [
            max if column in by_max else _mean for column in columns
        ]
        self._length = length
        self._rows: list[Row] = []
        self._waiting: list[Row] = []  # become one row when there are _stride of them
        self._stride = 1

    def add(self, row: Mapping[str, float | None]) -> None:
        """One more moment; a column that is not in `row` is unknown there."""
        self._waiting.append([row.get(column) for column in self.columns])
        if len(self._waiting) < self._stride:
            return
        self._rows.append(self._merged(self._waiting))
        self._waiting = []
        if len(self._rows) == self._length:
            pairs = zip(self._rows[::2], self._rows[1::2], strict=True)
            self._rows = [self._merged([first, second]) for first, second in pairs]
            self._stride *= 2

    def rows(self) -> list[Row]:
        """All rows, oldest first."""
        return [*self._rows, *([self._merged(self._waiting)] if self._waiting else [])]

    def column(self, name: str) -> list[float | None]:
        """One column of all rows."""
        index = self.columns.index(name)
        return [row[index] for row in self.rows()]

    def table(self) -> dict[str, list[float | None]]:
        """Column -> values, without the columns that nothing is known of."""
        table = {name: self.column(name) for name in self.columns}
        return {
            name: values for name, values in table.items() if any(v is not None for v in values)
        }

    def _merged(self, rows: Sequence[Row]) -> Row:
        if len(rows) == 1:
            return list(rows[0])
        merged: Row = []
        for merge, values in zip(self._merges, zip(*rows, strict=True), strict=True):
            known = [value for value in values if value is not None]
            merged.append(merge(known) if known else None)
        return merged


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
