"""What each column of a table is: its modality, its role, its options. JSON both ways, frozen after fit."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from .errors import RecipeError, did_you_mean

Role = Literal["input", "target", "id", "group", "time", "weight", "split", "ignore"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Args:
        name: its name in the table, or the name given to a cell made of several columns.
        modality: which codec reads it ("text", "image", "number" ...).
        role: what it is used for. `group` and `time` steer the split, `weight` the loss, `split` names the split.
        sources: the table's columns that make one cell; empty means the column of the same name.
        options: options of its codec and of its encoder; "encoder" and "task" name these parts.
    """

    name: str
    modality: str
    role: Role = "input"
    sources: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of the table this one is made from."""
        return self.sources or (self.name,)


@dataclass(frozen=True, slots=True)
class Window:
    """Rows cut from a long table of one reading per row.

    Args:
        id: the column that tells the units apart (an engine, a patient).
        order: the column that orders the readings of a unit.
        length: readings in one window, the last being the row the window belongs to.
        stride: a window at every `stride`-th reading, counted back from the unit's last one.
        horizon: how many readings ahead the target lies (0 = at the window's last reading).
    """

    id: str
    order: str
    length: int
    stride: int = 1
    horizon: int = 0


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns in the order in which they enter the model."""

    columns: tuple[Column, ...]
    window: Window | None = None

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for column in self.columns:
            if column.name in seen:
                raise RecipeError(f"column '{column.name}'", "appears twice in the schema", fix="rename one of them")
            if column.role not in get_args(Role):
                raise RecipeError(
                    f"column '{column.name}'",
                    f"has the unknown role '{column.role}'",
                    expected=f"one of {', '.join(get_args(Role))}",
                    fix=did_you_mean(column.role, get_args(Role)),
                )
            seen.add(column.name)

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise RecipeError(
            f"column '{name}'",
            "is not in the schema",
            expected=f"one of {', '.join(c.name for c in self.columns)}",
            fix=did_you_mean(name, [c.name for c in self.columns]),
        )

    def __contains__(self, name: str) -> bool:
        return any(c.name == name for c in self.columns)

    def having(self, role: Role) -> tuple[Column, ...]:
        return tuple(c for c in self.columns if c.role == role)

    def only(self, names: Iterable[str]) -> "Schema":
        """The same schema with just these columns as inputs (everything that is no input stays)."""
        keep = set(names)
        return replace(self, columns=tuple(c for c in self.columns if c.role != "input" or c.name in keep))

    def to_json(self) -> dict[str, Any]:
        columns = []
        for column in self.columns:
            entry = asdict(column)
            entry["sources"] = list(column.sources)
            columns.append({k: v for k, v in entry.items() if v or k in ("name", "modality", "role")})
        return {"columns": columns} | ({"window": asdict(self.window)} if self.window else {})

    @classmethod
    def from_json(cls, data: Any) -> "Schema":
        """Raises RecipeError naming the entry at fault."""
        if not isinstance(data, dict) or not isinstance(data.get("columns"), list):
            raise RecipeError(
                "schema",
                "is not a schema",
                expected='an object such as {"columns": [{"name": ..., "modality": ...}]}',
                fix="write one with `polyfuse look TABLE`",
            )
        columns = []
        for at, entry in enumerate(data["columns"]):
            columns.append(_made(Column, entry, f"schema, column {at + 1}"))
        window = _made(Window, data["window"], "schema, window") if data.get("window") else None
        return cls(tuple(replace(c, sources=tuple(c.sources)) for c in columns), window)


def _made(cls: type, entry: Any, where: str) -> Any:
    known = [f.name for f in fields(cls)]
    if not isinstance(entry, dict):
        raise RecipeError(where, f"is {type(entry).__name__}", expected="an object")
    for key in entry:
        if key not in known:
            raise RecipeError(where, f"has the unknown key '{key}'", expected=f"some of {', '.join(known)}", fix=did_you_mean(key, known))
    try:
        return cls(**entry)
    except TypeError as error:
        raise RecipeError(where, str(error).split(") ")[-1], expected=f"the keys {', '.join(known)}") from None
