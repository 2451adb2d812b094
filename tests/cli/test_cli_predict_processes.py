"""`mera predict --dataset` in two processes."""

import json
import os
import socket
import subprocess
import sys


# `mera` in a process whose second is slow to write. What it says at exit, and when the interpreter is taken apart
SLOW = """
import atexit, os, sys, time
import pyarrow.parquet as pq
from mera_hf.cli.main import main

class Torn:
    def __del__(self, write=os.write):
        write(2, b"torn down")

def slow(*arguments, write=pq.write_table, **options):
    time.sleep(1)
    write(*arguments, **options)

if os.environ["RANK"] == "1":
    pq.write_table = slow
torn = Torn()
status = main()
atexit.register(print, "a callback at exit")
sys.exit(status)
"""


def parts(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


def test_two_processes_write_what_one_writes(rankings, patient_files, small, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "mera_hf.cli", "predict", small / "model", "--dataset", patient_files, "--top-k", "5"]
    run = subprocess.run([*map(str, command), "--output-dir", tmp_path / "two"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert parts(tmp_path / "two") == parts(rankings[0])
    ours, theirs = (json.loads((folder / "predict.json").read_text()) for folder in (tmp_path / "two", rankings[0]))
    assert (ours.pop("processes"), theirs.pop("processes")) == (2, 1)
    assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    assert run.stdout.count("60 patients ranked") == 1, "the first process speaks for both"


def two(*arguments) -> list[tuple[int, str, str]]:
    """Exit status and output of two processes that no launcher ends: it would end one when the other has failed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = []
    for rank in ("0", "1"):
        environment = {**shared, "RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **pipes))
    try:
        said = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def test_both_end_in_good_order(rankings, patient_files, small, tmp_path):
    """Whichever is done first: all is written, and no interpreter is taken apart under a thread of the process group."""
    arguments = ("predict", small / "model", "--dataset", patient_files, "--top-k", "5", "--output-dir", tmp_path)
    for status, out, err in two("-c", SLOW, *arguments):
        assert status == 0, err
        assert "torn down" not in err and out.endswith("a callback at exit\n")
    assert parts(tmp_path) == parts(rankings[0])
    # What is wrong is wrong for both
    for status, out, err in two("-c", SLOW, *arguments):
        assert status == 2 and f"mera predict: `output_dir` '{tmp_path}' holds rankings" in err
        assert "torn down" not in err and "This should not" not in err and out == "a callback at exit\n"
