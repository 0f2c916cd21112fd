"""Prepares, unprepares, one or two at a time, crashes, also of a start, reboots and failures of MIG, against plain dicts.

The model knows for each claim only whether it must be prepared, may be, or must not be, and its own idea of which devices
exclude each other. It shares no code with the driver.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule

from dra_driver import claim, faultpoint, prepared, recovery, state
from tests.driver import host, objects

# Device: (GPU, first memory slice, slices, thousandths); whole GPUs have all eight slices and 1000.
PARTITIONS = {
    "gpu-7-mig-1g10gb-19-6": (7, 6, 1, 0),
    "gpu-7-mig-1g10gb-19-0": (7, 0, 1, 0),
    "gpu-7-mig-2g20gb-14-4": (7, 4, 2, 0),
    "gpu-7-mig-3g40gb-9-0": (7, 0, 4, 0),
    "gpu-7-mig-3g40gb-9-4": (7, 4, 4, 0),
}
WHOLE = {"gpu-0": (0, 0, 8, 1000), "gpu-1": (1, 0, 8, 1000), "gpu-7": (7, 0, 8, 0)}
SHARES = {f"gpu-2/{milli}/{letter}": (2, 0, 8, milli) for milli in (300, 700) for letter in "ab"}
MIG_CALLS = sorted(
    (
        "instances",
        *(f"{verb}_{what}" for verb in ("create", "destroy") for what in ("gpu_instance", "compute_instance")),
    )
)
DEVICES = PARTITIONS | WHOLE | SHARES
CRASH = st.just(0) | st.integers(
    1, 12
)  # at which fault point, counted from the first; 0 for none, in half of all cases
PREPARED, MAYBE, ABSENT = "prepared", "maybe", "absent"


class Crash(BaseException):
    """The process is gone; nothing catches it."""


def told(answer: Any) -> str:
    """Return the error of a call, "" for success; what nobody expects is raised."""
    if isinstance(answer, BaseException) and not isinstance(answer, state.EXPECTED):
        raise answer
    return str(answer) if isinstance(answer, BaseException) else ""


def clash(mine: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Tell whether two claims exclude each other, not counting how many shares there are in all."""
    for a in (DEVICES[name] for name in mine):
        for b in (DEVICES[name] for name in theirs):
            overlap = a[0] == b[0] and a[1] < b[1] + b[2] and b[1] < a[1] + a[2]
            if overlap and a[0] != 2:
                return True
    return False


def shared(names: tuple[str, ...]) -> int:
    return sum(DEVICES[name][3] for name in names if name in SHARES)


class Driver(RuleBasedStateMachine):
    claims = Bundle("claims")

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="muster-"))
        self.machine = host.machine(mig_gpus=(7,))
        host.lay_out(self.root / "n", self.machine)
        self.hardware = host.Hardware(self.root / "n", self.machine)
        self.api = host.Claims()
        self.asked: dict[str, tuple[str, ...]] = {}
        self.status: dict[str, str] = {}
        self.references: dict[str, claim.Reference] = {}
        self.boot, self.countdown, self.dead = 1, 0, False
        self.runner = asyncio.Runner()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(faultpoint, "reach", self.reach)
        self.start()

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.close()
            self.patch.undo()
            shutil.rmtree(self.root)

    def reach(self, point: str) -> None:
        """Count the fault points down to the crash; a dead process does not go on."""
        assert point in faultpoint.POINTS, point
        self.countdown -= 1
        if self.countdown == 0 or self.dead:
            self.dead = True
            raise Crash(point)

    def start(self, crash_at: int = 0) -> None:
        """Start the driver; one that crashes on its way is started again."""
        self.build()
        if self.attempt(self.come_up(), crash_at) not in ("", "crash"):
            raise AssertionError("a start raises nothing")

    def build(self) -> None:
        self.countdown, self.dead = 0, False
        self.state = state.State(host.parts(self.root / "n", self.machine, self.api, hardware=self.hardware))
        self.recovery = recovery.Recovery(self.state, f"boot-{self.boot}", lambda reason, message: None)

    async def come_up(self) -> None:
        await self.recovery.start()
        await self.recovery.rebuild()
        await self.recovery.sweep()

    def attempt(self, work: Any, crash_at: int) -> str:
        """Run a call that may crash; return its error, "" for success, "crash" for a crash after which it starts anew."""
        (answer,) = self.attempt_all([work], crash_at)
        return answer

    def attempt_all(self, works: list[Any], crash_at: int) -> list[str]:
        """Run several calls at the same time; a crash ends them all."""
        self.countdown = crash_at
        answers = self.runner.run(self.together(works))
        if not self.dead:
            self.countdown = 0
            return [told(answer) for answer in answers]
        self.runner.get_loop().set_exception_handler(lambda loop, context: None)  # nobody hears of it
        self.runner.close()  # no task of the dead process goes on
        asyncio.run(self.state.close())
        self.runner = asyncio.Runner()
        self.start()
        return ["crash"] * len(works)

    async def together(self, works: list[Any]) -> list[Any]:
        found: list[Any] = await asyncio.gather(*works, return_exceptions=True)
        return found

    @rule(target=claims, names=st.sets(st.sampled_from(sorted(DEVICES)), min_size=1, max_size=2))
    def allocate(self, names: set[str]) -> Any:
        """The scheduler hands out devices, also some that are taken: it may have raced."""
        wanted = tuple(sorted(names))
        if (
            any(clash((a,), (b,)) for a in wanted for b in wanted if a < b)
            or shared(wanted) > 1000
            or len(self.asked) >= 12
        ):
            return multiple()
        number = len(self.asked) + 1
        rows = []
        for name in wanted:
            device, *share = name.split("/")
            rows.append(
                objects.share(device, f"{number}{share[1]}", int(share[0])) if share else objects.result(device)
            )
        reference = self.api.add(objects.claim(number, *rows))
        self.asked[reference.uid], self.status[reference.uid] = wanted, ABSENT
        self.references[reference.uid] = reference
        return reference.uid

    def rivals(self, uid: str, status: str) -> bool:
        """Tell whether a claim cannot be prepared because of others of a status (with the surely prepared ones)."""
        others = [o for o, s in self.status.items() if o != uid and s in (status, PREPARED)]
        if any(clash(self.asked[uid], self.asked[o]) for o in others):
            return True
        mine = shared(self.asked[uid])
        return mine > 0 and mine + sum(shared(self.asked[o]) for o in others) > 1000

    @rule(uid=claims, crash_at=st.integers(0, 8))
    def prepare(self, uid: str, crash_at: int) -> None:
        must_fail = self.status[uid] == ABSENT and self.rivals(uid, PREPARED)
        may_fail = must_fail or self.rivals(uid, MAYBE) or bool(self.hardware.failing)
        before = self.status[uid]
        error = self.attempt(self.prepare_as_plugin(uid), crash_at)
        if error == "crash":
            assert before != PREPARED or self.prepared(uid)
            self.status[uid] = PREPARED if before == PREPARED else MAYBE
        elif error:
            assert may_fail, error
            if before == ABSENT:
                self.status[uid] = ABSENT if must_fail else MAYBE
        else:
            assert not must_fail
            self.status[uid] = PREPARED

    async def prepare_as_plugin(self, uid: str) -> None:
        reference = self.references[uid]
        await self.state.prepare(reference, await self.state.wanted(reference))

    async def unprepare_as_plugin(self, uid: str) -> None:
        await self.state.unprepare(claim.ClaimUid(uid))

    @rule(uid=claims, crash_at=st.integers(0, 8))
    def unprepare(self, uid: str, crash_at: int) -> None:
        error = self.attempt(self.unprepare_as_plugin(uid), crash_at)
        if error == "":
            self.status[uid] = ABSENT
        elif self.status[uid] != ABSENT:
            assert error == "crash" or self.hardware.failing, error
            self.status[uid] = MAYBE

    @rule(
        one=claims,
        other=claims,
        calls=st.tuples(*[st.sampled_from(["prepare", "unprepare"])] * 2),
        crash_at=CRASH,
    )
    def two_at_once(self, one: str, other: str, calls: tuple[str, str], crash_at: int) -> None:
        before, uids = dict(self.status), (one, other)
        verdicts = []
        for uid, rival in ((one, other), (other, one)):
            self.status = {**before, rival: MAYBE} if uid != rival else dict(before)
            must = self.status[uid] == ABSENT and self.rivals(uid, PREPARED)
            verdicts.append((must, must or self.rivals(uid, MAYBE) or bool(self.hardware.failing)))
        self.status = before
        works = [
            self.unprepare_as_plugin(uid) if call == "unprepare" else self.prepare_as_plugin(uid)
            for uid, call in zip(uids, calls, strict=True)
        ]
        answers = self.attempt_all(works, crash_at)
        after = {}
        for uid, call, error, (must, may) in zip(uids, calls, answers, verdicts, strict=True):
            if call == "unprepare":
                assert error in ("", "crash") or self.hardware.failing, error
                after[uid] = ABSENT if error == "" or before[uid] == ABSENT else MAYBE
            else:
                assert error in ("", "crash") or may, error
                assert not must or error
                kept = PREPARED if before[uid] == PREPARED else MAYBE
                after[uid] = PREPARED if error == "" else ABSENT if must and error != "crash" else kept
        if one == other and calls[0] != calls[1]:
            after[one] = MAYBE  # whichever came last
        self.status.update(after)

    @rule(call=st.sampled_from(MIG_CALLS))
    def mig_fails(self, call: str) -> None:
        self.hardware.failing = {call}

    @precondition(lambda self: self.hardware.failing)
    @rule()
    def mig_works(self) -> None:
        self.hardware.failing = set()

    @rule(crash_at=CRASH)
    def restart(self, crash_at: int) -> None:
        self.start(crash_at)

    @rule(crash_at=CRASH)
    def reboot(self, crash_at: int) -> None:
        self.hardware.failing = set()
        self.hardware.reboot()
        shutil.rmtree(self.root / "n/var/run/cdi", ignore_errors=True)
        self.boot += 1
        self.start(crash_at)

    @rule(garbage=st.sampled_from([b"", b"{", b'{"version":9}', b"\x00" * 64, None]), crash_at=CRASH)
    def checkpoint_is_damaged(self, garbage: bytes | None, crash_at: int) -> None:
        """Or is gone. Everything is found again through the claims, which are all reserved."""
        self.hardware.failing = set()
        path = self.state.parts.store.path
        path.unlink() if garbage is None else path.write_bytes(garbage)
        self.start(crash_at)
        for uid, status in self.status.items():
            if status != PREPARED:
                self.status[uid] = PREPARED if self.prepared(uid) else MAYBE

    def prepared(self, uid: str) -> bool:
        entry = self.state.parts.store.read().claims.get(claim.ClaimUid(uid))
        return entry is not None and entry.phase is prepared.Phase.COMPLETED

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "status"):
            return
        there = {(row.gpu_uuid, row.profile_id, row.start) for row in self.hardware._all() if row.uuid}
        for uid, status in self.status.items():
            if status == PREPARED:
                assert self.prepared(uid), f"{uid} {self.asked[uid]} is lost"
                assert self.state.parts.cdi.file(claim.ClaimUid(uid)).exists()
                for held in self.state.parts.store.read().claims[claim.ClaimUid(uid)].devices:
                    if held.partition:
                        assert (held.gpu_uuid, held.partition.profile_id, held.partition.start) in there

    @invariant()
    def nothing_is_used_twice(self) -> None:
        if not hasattr(self, "status"):
            return
        held = [uid for uid in self.asked if self.prepared(uid)]
        for a in held:
            for b in held:
                assert a >= b or not clash(self.asked[a], self.asked[b])
        assert sum(shared(self.asked[uid]) for uid in held) <= 1000

    @invariant()
    def placements_do_not_overlap_and_all_have_a_record(self) -> None:
        if not hasattr(self, "status"):
            return
        rows = self.hardware._all()
        taken = [(row.gpu_uuid, row.start + i) for row in rows for i in range(row.size)]
        assert len(taken) == len(set(taken))
        recorded = {
            (held.gpu_uuid, held.partition.start)
            for entry in self.state.parts.store.read().claims.values()
            for held in entry.devices
            if held.partition
        }
        assert self.hardware.failing or {(row.gpu_uuid, row.start) for row in rows} <= recorded

    @invariant()
    def absent_claims_have_no_files(self) -> None:
        if hasattr(self, "status"):
            absent = {uid for uid, status in self.status.items() if status == ABSENT}
            assert not absent & self.state.parts.cdi.claims()


Driver.TestCase.settings = settings(max_examples=settings().max_examples // 4, stateful_step_count=30, deadline=None)
TestDriver = Driver.TestCase
