"""The whole product in a minute, with nothing but Python: what ``make demo`` shows first."""
