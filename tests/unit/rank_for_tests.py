"""What the launcher tests launch in place of training: a rank without torch, told what to do by the job."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from dagster_pipes import open_dagster_pipes


def main(path: str) -> None:
    job = json.loads(Path(path).read_text())
    if job["do"] == "report" and os.environ["RANK"] == "0":
        with open_dagster_pipes() as pipes:
            pipes.log.info("a line from rank 0")
            names = ("WORLD_SIZE", "OMP_NUM_THREADS", "DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES")
            pipes.report_custom_message({name: os.environ.get(name) for name in names})
    if job["do"] == "meet":
        meet()
    if job["do"] == "crash" and os.environ["RANK"] == "1":
        raise RuntimeError("the reason in full")
    if job["do"] == "be killed" and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    if job["do"] in ("crash", "hang", "be killed"):
        if job["do"] == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as stubborn as can be
        child = subprocess.Popen(["sleep", "600"])
        mine = Path(job["pids"]) / os.environ["RANK"]
        mine.with_suffix(".new").write_text(f"{os.getpid()} {child.pid} {os.getppid()}")
        mine.with_suffix(".new").rename(mine)
        time.sleep(600)


def meet() -> None:
    """Both ranks, through the address they were given, without torch: rank 0 listens, rank 1 tells it."""
    told = f"{os.environ['RANK']} of host {os.environ['CROSS_RANK']}"
    passed_on = "nothing else" if "DAGSTER_PIPES_CONTEXT" not in os.environ else ""
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if os.environ["RANK"] == "1":
        while True:
            try:
                with socket.create_connection(address) as other:
                    other.sendall(f"{told}|{passed_on}".encode())
                    return
            except ConnectionRefusedError:
                time.sleep(0.05)
    with socket.create_server(address) as server, open_dagster_pipes() as pipes:
        theirs, theirs_passed_on = server.accept()[0].recv(4096).decode().split("|")
        report = {"ranks": [told, theirs], "passed_on": [passed_on, theirs_passed_on]}
        pipes.report_custom_message(report)


if __name__ == "__main__":
    main(sys.argv[1])
