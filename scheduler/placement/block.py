"""The constraint that keeps a role out, before it gets a gang's name."""

from dataclasses import dataclass

from scheduler.model import gang as gangs
from scheduler.model import reasons


@dataclass(frozen=True, slots=True)
class Block:
    """What blocks; the fields are those of `reasons.Rejection`."""

    reason: reasons.Reason
    level: str = ""
    nearest: str = ""
    missing: int = 0
    resource: str = "pods"
    detail: str = ""

    def of(self, gang: gangs.Gang, permanent: bool = False) -> reasons.Rejection:
        """Return the refusal of a gang."""
        return reasons.Rejection(
            gang=gang.name,
            reason=self.reason,
            level=self.level,
            nearest=self.nearest,
            missing=self.missing,
            resource=self.resource,
            permanent=permanent,
            detail=self.detail,
        )


def join(*words: str) -> str:
    """Put words that are there together."""
    return ", ".join(word for word in words if word)
