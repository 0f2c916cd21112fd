"""Bad input: every file is refused with one message that names file, line, field and value."""

from pathlib import Path

import polars as pl
import pytest

from simulator.trace import content, job, load, schema, table

DATA = Path(__file__).parents[1] / "data"

OURS = "name,submit_s,duration_s,gpus\n"
FLOW = "job_id,submission_time,duration,num_gpu\n"
OPENB = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\n"
OPENB_TIMES = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,qos,creation_time,deletion_time,scheduled_time\n"
SWF = "1 0 5 100 8 -1 -1 8 200 -1 1 3 1 -1 1 -1 -1 -1\n"

CASES = [
    # content, line, field, words of the message
    (OURS + "a,0,60\n", 2, "", "3 fields, the header has 4"),
    (OURS + "a,0,60,1,9\n", 2, "", "5 fields, the header has 4"),
    (OURS + "a,0,60,1\n\nb,0,60,1\n", 3, "", "an empty line"),
    (OURS + 'a,0,60,1\n"b\n', 3, "", "not a CSV row"),
    (OURS + '"a\nb",0,60,1\n"c",0,-1,1\n', 4, "duration_s", "not a number from 0"),
    (OURS[:-1] + ",colour\na,0,60,1,red\n", 1, "colour", "unknown column"),
    ("name,submit_s,gpus\na,0,1\n", 1, "duration_s", "this column is missing"),
    ("name,submit_s,duration_s,gpus,gpus\na,0,1,1,1\n", 1, "gpus", "two columns have this name"),
    ("name,submit_s,duration_s,gpus,\na,0,1,1,1\n", 1, "", "a column has no name"),
    (OURS + "a,0,60,1\nb,-5,60,1\n", 3, "submit_s", "not a number from 0"),
    (OURS + "a,0,nan,1\n", 2, "duration_s", "not a number"),
    (OURS + "a,0,inf,1\n", 2, "duration_s", "not a number"),
    (OURS + "a,0,1e12,1\n", 2, "duration_s", "not a number"),
    (OURS + "a,0,soon,1\n", 2, "duration_s", "'soon'"),
    (OURS + "a,,60,1\n", 2, "submit_s", "empty"),
    (OURS + "a,0,60,1.5\n", 2, "gpus", "not a whole number from 0 to 64, got '1.5'"),
    (OURS + "a,0,60,-1\n", 2, "gpus", "not a whole number"),
    (OURS + "a,0,60,99999999999999999999\n", 2, "gpus", "not a whole number"),
    (OURS + "a,0,60,1\nb,0,60,1\na,0,60,1\n", 4, "name", "the name was used on line 2, got 'a'"),
    (OURS + ",0,60,1\n", 2, "name", "empty"),
    (OURS, 0, "", "the table has no rows"),
    ("name,submit_s,duration_s,gpus,gpu_milli\na,0,60,2,500\n", 2, "gpu_milli", "needs gpus == 1"),
    ("name,submit_s,duration_s,gpus,mig\na,0,60,0,1g.10gb\n", 2, "mig", "needs gpus >= 1"),
    ("name,submit_s,duration_s,gpus,min_member\na,0,60,1,3\n", 2, "", "min_member 3 is outside 0..1"),
    ("name,submit_s,duration_s,gpus,roles\na,0,60,0,not json\n", 2, "roles", "Expecting value"),
    ('name,submit_s,duration_s,gpus,roles\na,0,60,0,"[{""size"": 3}]"\n', 2, "roles", "unknown key 'size'"),
    ('name,submit_s,duration_s,gpus,roles\na,0,60,0,"[{""name"": ""w""}]"\n', 2, "roles", "Field required"),
    ("name,submit_s,duration_s,gpus,accelerators\na,0,60,0,fpga\n", 2, "accelerators", "write kind=count"),
    (FLOW + "a,0,60,0\n", 2, "num_gpu", "not a whole number from 1"),
    (FLOW + "a,0,60,99999999\n", 2, "num_gpu", "not a whole number"),
    ("job_id,submission_time,duration\na,0,60\n", 1, "num_gpu", "this column is missing"),
    (OPENB + "a,1000,1000,2,500\n", 2, "gpu_milli", "only a pod with one GPU may share it"),
    (OPENB + "a,1000,1000,1,0\n", 2, "gpu_milli", "takes none of them"),
    (OPENB + "a,1000,1000,1,1001\n", 2, "gpu_milli", "not a whole number from 0 to 1000"),
    (OPENB_TIMES + "a,1,1,1,1000,LS,50,40,45\n", 2, "deletion_time", "ends before it starts"),
    (OPENB_TIMES + "a,1,1,1,1000,Gold,50,60,55\n", 2, "qos", "unknown class, got 'Gold'"),
    ("model,total_steps,arrival_s,gang_size\nGPT-9,5,0,1\n", 2, "model", "no throughput is known"),
    ("A3C\tcommand\t--steps\t0\t10\t0\n", 1, "", "6 fields, Gavel's traces have 7"),
    ("; header\n" + SWF + "2 0 5\n", 3, "", "3 fields, the standard workload format has 18"),
    ("; header\n\n" + SWF + SWF.replace("1 0 5 100", "2 0 5 -2"), 4, "run time", "not a number from -1"),
    ("; header\n" + SWF.replace("1 0 5", "1 -1 5"), 2, "submit time", "every job needs a submit time"),
    ("; header\n" + SWF.replace("100 8", "-1 8"), 0, "", "no job of this log ran"),
    ("; only a header\n", 0, "", "has a header and no jobs"),
    ("; h\n" + SWF + SWF, 3, "job number", "was used on line 2"),
    ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n", 2, "TIMESTAMP", "not a time"),
    ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,-1,1\n", 2, "ContextTokens", "not a whole number"),
    ('{"timestamp": 0, "input_length": 5, "output_length": 1}\n{"timesta\n', 2, "", "not a JSON object"),
    ('{"timestamp": 0, "input_length": 5}\n', 1, "output_length", "this field is missing"),
    ('{"timestamp": 0, "input_length": true, "output_length": 1}\n', 1, "input_length", "not a whole number"),
    ('{"timestamp": 0, "input_length": 5, "output_length": 1, "x": 2}\n', 1, "x", "unknown field"),
    ('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": ["a"]}\n', 1, "hash_ids", "not a list"),
    ("a,b,c\n1,2,3\n", 1, "", "no known trace has this header"),
    ("", 0, "", "the file is empty"),
    (" \n\n", 0, "", "the file is empty"),
]


@pytest.mark.parametrize(("content", "line", "field", "words"), CASES, ids=range(len(CASES)))
def test_bad_rows_are_told_with_line_and_field(tmp_path: Path, content: str, line: int, field: str, words: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(job.TraceError) as caught:
        load.read(path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert caught.value.line == line
    assert not field or caught.value.field == field
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (OURS.encode() + b"a,0,60,1\n\xff\xfe,0,60,1\n", 3, "bytes that are not UTF-8"),
        ("name,submit_s\n".encode("utf-16"), 0, "the text is UTF-16"),
        (OURS.encode() + b"a,0,6\x000,1\n", 2, "a NUL byte"),
    ],
)
def test_wrong_encodings_are_refused(tmp_path: Path, data: bytes, line: int, words: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(data)
    with pytest.raises(job.TraceError, match=words) as caught:
        load.read(path)
    assert caught.value.line == line


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "fine.csv"
    path.write_bytes(b"\xef\xbb\xbf" + (OURS + "a, 0 ,60,1\nb,0,60,8\n").replace("\n", "\r\n").encode())
    assert load.read(path).names.tolist() == ["a", "b"]


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(job.TraceError, match=r"cannot be read \(No such file"):
        load.read(tmp_path / "absent.csv")
    with pytest.raises(job.TraceError, match="this is a folder"):
        load.read(tmp_path)


def test_files_and_tables_have_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MAX_BYTES", 100)
    path = tmp_path / "large.csv"
    path.write_text(OURS + "".join(f"job-{i},0,60,1\n" for i in range(10)))
    with pytest.raises(job.TraceError, match="at most 100 are read"):
        load.read(path)
    monkeypatch.undo()
    monkeypatch.setattr(table, "MAX_ROWS", 9)
    with pytest.raises(job.TraceError, match="10 rows, at most 9 are read"):
        load.read(path)


def test_every_truncation_of_a_parquet_file_is_refused(tmp_path: Path) -> None:
    whole = schema.write(load.read(DATA / "jobs.csv"), tmp_path / "whole.parquet").read_bytes()
    part = tmp_path / "part.parquet"
    for size in (1, 4, 8, len(whole) // 2, len(whole) - 1):
        part.write_bytes(whole[:size])
        with pytest.raises(job.TraceError, match="truncated Parquet"):
            load.read(part)
    part.write_bytes(whole[:200] + bytes(100) + whole[300:])
    with pytest.raises(job.TraceError):
        load.read(part)


def test_parquet_rows_are_numbered_and_odd_types_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    pl.DataFrame({"name": ["a", "b"], "submit_s": [0.0, 1.0], "duration_s": [5, -5], "gpus": [1, 1]}).write_parquet(
        path
    )
    with pytest.raises(job.TraceError) as caught:
        load.read(path)
    assert (caught.value.line, caught.value.field, caught.value.value) == (2, "duration_s", "-5")
    pl.DataFrame({"name": ["a"], "submit_s": [[0.0]], "duration_s": [5], "gpus": [1]}).write_parquet(path)
    with pytest.raises(job.TraceError, match="a column of type List"):
        load.read(path)
