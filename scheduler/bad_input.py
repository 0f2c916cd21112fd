"""Input that was refused: one message that says file, line, field, what was found and what to do."""


class BadInput(ValueError):
    """A fault of the input.

    Attributes
    ----------
    file : str
        As the user named it.
    line : int
        1-based; 0 when the whole file is meant.
    field, value, remedy : str
        "" where they do not apply.
    """

    def __init__(
        self, problem: str, *, file: str = "", line: int = 0, field: str = "", value: str = "", remedy: str = ""
    ) -> None:
        self.problem = problem
        self.file = file
        self.line = line
        self.field = field
        self.value = value[:80]
        self.remedy = remedy
        super().__init__(problem, file, line, field)

    def __str__(self) -> str:
        places = (self.file, f"line {self.line}" if self.line else "", f"field {self.field}" if self.field else "")
        where = ", ".join(place for place in places if place)
        got = f", got {self.value!r}" if self.value else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{where + ': ' if where else ''}{self.problem}{got}{remedy}"
