"""Run time by placement: the committed fit against the measurements, and the shape of the model."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.model import gang, request
from simulator import runtime, runtime_fit
from simulator.trace import job

TALKER = job.JobShape(gang.single("t", request.PodRequest(gpus=8)), communication_milli=250, message_bytes=64 << 20)
HOPPER = runtime.collectives("Hopper")

MB_S = st.integers(1_000, 1_000_000)
BYTES = st.integers(0, 1 << 34)
GPUS = st.integers(2, 512)


def test_half_the_bandwidth_doubles_long_collectives_and_so_a_quarter_of_the_run_time() -> None:
    got = HOPPER.seconds(1000, TALKER, 240_000, 480_000, 8)
    assert got == pytest.approx(1250, rel=0.05)
    assert got < 1250


def test_jobs_that_do_not_communicate_take_their_time() -> None:
    quiet = job.JobShape(TALKER.gang)
    assert HOPPER.seconds(1000, quiet, 1_000, 480_000, 8) == 1000
    assert HOPPER.seconds(1000, TALKER, 0, 480_000, 8) == 1000
    assert HOPPER.seconds(1000, TALKER, 0, 0, 1) == 1000
    assert runtime.Fixed().seconds(1000, TALKER, 1_000, 480_000, 8) == 1000


@given(BYTES, MB_S, GPUS)
def test_the_reference_itself_is_not_slower(message: int, mb_s: int, gpus: int) -> None:
    assert HOPPER.slowdown(message, mb_s, mb_s, gpus) == 1.0


@given(BYTES, MB_S, MB_S, MB_S, GPUS)
def test_less_bandwidth_is_never_quicker(message: int, a: int, b: int, reference: int, gpus: int) -> None:
    slow, fast = sorted((a, b))
    assert HOPPER.slowdown(message, slow, reference, gpus) >= 0.999 * HOPPER.slowdown(message, fast, reference, gpus)


@given(BYTES, MB_S, GPUS, st.integers(2, 64))
def test_more_nodes_are_never_quicker(message: int, mb_s: int, gpus: int, nodes: int) -> None:
    few = HOPPER.collective_us(message, gpus, mb_s, nodes)
    assert HOPPER.collective_us(message, gpus, mb_s, nodes + 1) >= few


def test_models_are_found_by_name() -> None:
    assert runtime.by_name("none") == runtime.Fixed()
    assert runtime.by_name("collectives") == HOPPER
    assert runtime.by_name("collectives:Ampere").seconds(10, TALKER, 100_000, 300_000, 8) > 10
    with pytest.raises(ValueError, match="no run-time model 'ideal'"):
        runtime.by_name("ideal")
    with pytest.raises(ValueError, match="no measurements of 'Volta'"):
        runtime.by_name("collectives:Volta")


def test_a_fit_finds_known_constants_in_spite_of_outliers() -> None:
    sizes = np.geomspace(2048, 1 << 26, 400)
    times = 30.0 + 1.5 * sizes / (0.7 * 100_000)
    times[::40] *= 5
    group = runtime_fit.Group("made", "Hopper", "all_reduce", 4, 4, "nvlink", 100_000, "", sizes, times)
    latency, efficiency = runtime_fit.alpha_beta([group], [100_000])
    assert latency == pytest.approx(30, rel=0.05)
    assert efficiency == pytest.approx(0.7, rel=0.05)


def test_the_committed_constants_are_those_of_the_measurements(traces: Path) -> None:
    fresh = runtime_fit.fit(runtime_fit.read(traces / "collective-profiles"))
    committed = runtime.facts()
    assert len(fresh["groups"]) == len(committed["groups"]) == 22
    for architecture, links in committed["architectures"].items():
        for link, row in links.items():
            again = fresh["architectures"][architecture][link]
            assert again["latency_us"] == pytest.approx(row["latency_us"], rel=0.02)
            assert again["efficiency"] == pytest.approx(row["efficiency"], rel=0.02)


def test_the_model_predicts_the_measured_times_of_one_node(traces: Path) -> None:
    for group in runtime_fit.read(traces / "collective-profiles"):
        if group.unused or group.link == "network":
            continue
        model = runtime.collectives(group.architecture)
        large = group.message_bytes >= 16 << 20
        predicted = [
            model.collective_us(int(size), group.gpus, group.nominal_mb_s) for size in group.message_bytes[large]
        ]
        error = np.abs(np.array(predicted) / group.time_us[large] - 1)
        assert np.median(error) < 0.25, group.source


def test_the_copied_file_takes_no_part_in_the_fit(traces: Path) -> None:
    folder = traces / "collective-profiles"
    copies = [(folder / f"{chip}_pairwise_nvlink" / "send_recv.csv").read_bytes() for chip in ("a100", "h100")]
    assert copies[0] == copies[1]
    used = [g.source for g in runtime_fit.read(folder) if not g.unused]
    assert "h100_pairwise_nvlink/send_recv" not in used


def test_a_folder_without_profiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="collective profiles"):
        runtime_fit.read(tmp_path)
