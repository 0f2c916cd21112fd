"""Tenants' quotas: what is theirs, what they may borrow, who has to give back."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from scheduler.gang import config
from scheduler.model import device, reasons
from scheduler.model import gang as gangs

WHOLE = device.WHOLE_GPU_MILLI


def gpu_milli(gang: gangs.Gang) -> int:
    """Return what a gang counts against its quota; a MIG partition counts as a whole GPU's share of one."""
    return sum(
        role.count * (role.request.gpus * WHOLE if role.request.mig else role.request.total_gpu_milli)
        for role in gang.roles
    )


@dataclass(slots=True, eq=False)
class Ledger:
    """What every tenant uses, against what it may.

    Attributes
    ----------
    used : dict of tenant to int
        GPU milli held by reserved and running gangs.
    """

    quotas: dict[str, config.Quota]
    used: dict[str, int] = field(default_factory=dict)

    def charge(self, gang: gangs.Gang, sign: int) -> None:
        """Add (+1) or take off (-1) what a gang holds."""
        self.used[gang.tenant] = self.used.get(gang.tenant, 0) + sign * gpu_milli(gang)

    def allows(self, gang: gangs.Gang) -> bool:
        """Tell whether a gang may start.

        Notes
        -----
        Within the nominal quota always; beyond it up to the borrowing limit, as long as all tenants together stay
        within the sum of the nominal quotas.
        """
        if not self.quotas:
            return True
        need, quota = gpu_milli(gang), self._quota(gang.tenant)
        after = self.used.get(gang.tenant, 0) + need
        return after <= quota.nominal * WHOLE or not need or self._excess(quota, after, need) <= 0

    def refusal(self, gang: gangs.Gang) -> reasons.Rejection | None:
        """Say why a gang may not start, None when it may."""
        if self.allows(gang):
            return None
        need, quota = gpu_milli(gang), self._quota(gang.tenant)
        used = self.used.get(gang.tenant, 0)
        ceiling = (quota.nominal + quota.borrow) * WHOLE
        where = "its quota" if used + need > ceiling else "what other tenants leave idle"
        return reasons.Rejection(
            gang.name,
            reasons.Reason.QUOTA,
            nearest=f"tenant {gang.tenant}",
            missing=-(-self._excess(quota, used + need, need) // WHOLE),
            resource="GPUs",
            permanent=need > min(ceiling, self._pool()),
            detail=f"uses {used / WHOLE:g} of {quota.nominal}+{quota.borrow} GPUs; {need / WHOLE:g} more exceed {where}",
        )

    def _quota(self, tenant: str) -> config.Quota:
        return self.quotas.get(tenant) or config.Quota(tenant, 0)

    def _pool(self) -> int:
        """Return the GPU milli that all tenants together may hold."""
        return sum(quota.nominal for quota in self.quotas.values()) * WHOLE

    def _excess(self, quota: config.Quota, after: int, need: int) -> int:
        """Return by how much a tenant that then holds `after` exceeds its ceiling, or all tenants the pool."""
        ceiling = (quota.nominal + quota.borrow) * WHOLE
        return max(after - ceiling, sum(self.used.values()) + need - self._pool())

    def entitled(self, gang: gangs.Gang) -> bool:
        """Tell whether the gang stays within its tenant's nominal quota, so that it may reclaim."""
        quota = self.quotas.get(gang.tenant)
        return quota is not None and self.used.get(gang.tenant, 0) + gpu_milli(gang) <= quota.nominal * WHOLE

    def borrowed(self, running: Iterable[gangs.Gang]) -> list[gangs.Gang]:
        """Return the gangs with which tenants exceed their nominal quota, newest first.

        Parameters
        ----------
        running : iterable of Gang
            Newest first. A tenant's gangs are listed as long as what is left without those listed exceeds its quota.
        """
        left = dict(self.used)
        found = []
        for gang in running:
            quota = self._quota(gang.tenant)
            if left.get(gang.tenant, 0) > quota.nominal * WHOLE:
                left[gang.tenant] -= gpu_milli(gang)
                found.append(gang)
        return found
