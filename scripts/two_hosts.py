"""Trains one model on two hosts, which are network namespaces of this machine, and cuts the link between them.

``sudo .venv/bin/python -m scripts.two_hosts`` in a checkout; it needs root, ``ip`` and ``tc`` (iproute2) and the extra
``mpi``, and takes one to three minutes. The hosts share the disk alone: the ranks talk by TCP over a veth pair. It
checks that

* two hosts train to the bits of one process, with a fast link and with a slow one;
* if the link is cut, both ranks end by themselves, the reachable one with one message;
* the run that was cut off, resumed on two hosts, ends with the bits of one that was never interrupted.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpunet.training.checkpoint import digest, load_checkpoint

ROOT = Path(__file__).parents[1]
HOSTS = {"10.77.0.1": f"gpunet-a-{os.getpid()}", "10.77.0.2": f"gpunet-b-{os.getpid()}"}
"""Namespaces by address."""
FIRST, SECOND = HOSTS.values()
LINK = "veth0"
TIMEOUT = 5
"""Seconds that a rank waits for the others: GPUNET_RANK_TIMEOUT."""
BOUND = 20.0
"""Seconds within which both ranks must have ended after the cut: three more for the second, and a busy machine."""
EPOCHS = 40
"""Of the run that is cut off."""
TRAIN = ["--filters", "4", "8", "--batch-size", "64", "--shards", "8", "--sync-batch-norm", "-q"]


def main() -> None:
    missing = [name for name in ("ip", "tc", "mpiexec") if which(name) is None]
    if os.geteuid() or missing:
        raise SystemExit(f"this needs root, ip, tc and mpiexec{'; missing: ' if missing else ''}{', '.join(missing)}")
    with tempfile.TemporaryDirectory() as name:
        try:
            make_hosts()
            check(Path(name))
        finally:
            for host in HOSTS.values():
                for process in processes(host):
                    os.kill(process, signal.SIGKILL)
                subprocess.run(["ip", "netns", "del", host], check=False, stderr=subprocess.DEVNULL)


def check(folder: Path) -> None:
    store_data(folder / "data.npz")
    alone = finished(start(folder, "alone", hosts=False), folder, "alone")
    assert finished(start(folder, "fast"), folder, "fast") == alone, "two hosts trained to other bits"
    print("two hosts train to the bits of one process")
    slow = ["root", "tbf", "rate", "20mbit", "burst", "64k", "limit", "1m"]
    for host in HOSTS.values():
        run("tc", "-n", host, "qdisc", "add", "dev", LINK, *slow)
    assert finished(start(folder, "slow"), folder, "slow") == alone, "a slow link changed the bits"
    print("a link of 20 Mbit/s changes nothing but the time")

    process = start(folder, "cut", epochs=EPOCHS)
    until(lambda: any(folder.glob("cut/*/last.safetensors")), 60, "the first checkpoint")
    run("ip", "-n", FIRST, "link", "set", LINK, "down")
    began = time.monotonic()
    until(lambda: not any(ranks(host) for host in HOSTS.values()), BOUND, "the end of both ranks")
    print(f"both ranks ended {time.monotonic() - began:.1f} s after the cut")
    process.send_signal(signal.SIGINT)  # mpiexec goes on to wait for the other host
    try:
        _, errors = process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert errors.count("gpunet: error") == 1 and "rank 0 has waited" in errors, errors
    assert process.returncode != 0
    run("ip", "-n", FIRST, "link", "set", LINK, "up")
    for host in HOSTS.values():
        run("tc", "-n", host, "qdisc", "del", "dev", LINK, "root")
    time.sleep(2)  # the neighbours find each other again
    (run_dir,) = (folder / "cut").iterdir()
    done = len((run_dir / "metrics.jsonl").read_text().splitlines())
    assert done < EPOCHS, "it was to be cut off on the way"
    resumed = finished(start(folder, "cut", resume=run_dir), folder, "cut")
    whole = finished(start(folder, "whole", epochs=EPOCHS, hosts=False), folder, "whole")
    assert resumed == whole, "the resumed run has other bits"
    print(f"resumed after {done} of {EPOCHS} epochs, the run has the bits of one that was never cut off")


def make_hosts() -> None:
    for host in HOSTS.values():
        run("ip", "netns", "add", host)
    run("ip", "link", "add", LINK, "netns", FIRST, "type", "veth", "peer", "name", LINK, "netns", SECOND)
    for address, host in HOSTS.items():
        run("ip", "-n", host, "addr", "add", f"{address}/24", "dev", LINK)
        run("ip", "-n", host, "link", "set", "lo", "up")
        run("ip", "-n", host, "link", "set", LINK, "up")


def store_data(path: Path) -> None:
    """Noise whose mean tells the class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 640)
    images = (rng.integers(0, 160, (640, 8, 8, 1)) + 20 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(path, x_train=images[:512], y_train=labels[:512], x_test=images[512:], y_test=labels[512:])


def start(
    folder: Path, name: str, *, epochs: int = 3, hosts: bool = True, resume: Path | None = None
) -> subprocess.Popen[str]:
    words = ["--resume", str(resume), "-q"] if resume else ["cnn", "--data", str(folder / "data.npz"), *TRAIN]
    if not resume:
        words += ["--epochs", str(epochs), "--runs-dir", str(folder / name)]
    command = [sys.executable, "-m", "gpunet", "train", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GPUNET_DEVICE": "cpu", "NUMBA_NUM_THREADS": "1"}
    environment["GPUNET_RANK_TIMEOUT"] = str(TIMEOUT)
    if hosts:
        # What mpiexec takes for ssh; and MPI's way around shared memory, which these hosts would have in common.
        remote = folder / "remote.sh"
        cases = "".join(f"{address}) host={host};; " for address, host in HOSTS.items())
        text = f'[ "$1" = -x ] && shift; case $1 in {cases}esac; shift; exec ip netns exec $host sh -c "$*"\n'
        remote.write_text(f"#!/bin/sh\n{text}")
        remote.chmod(0o755)
        environment |= {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": LINK}
        launcher = ["-launcher", "ssh", "-launcher-exec", str(remote), "-hosts", ",".join(HOSTS), "-ppn", "1"]
        command = ["ip", "netns", "exec", FIRST, str(which("mpiexec")), *launcher, "-n", "2", *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def finished(process: subprocess.Popen[str], folder: Path, name: str) -> str:
    """The digest of the model of the run, once it is trained."""
    began = time.monotonic()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    print(f"{name}: {time.monotonic() - began:.1f} s")
    (path,) = (folder / name).glob("*/last.safetensors")
    found: str = digest(load_checkpoint(path)[0])
    return found


def processes(host: str) -> list[int]:
    done = subprocess.run(["ip", "netns", "pids", host], check=False, capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


def ranks(host: str) -> list[int]:
    """Those of the processes that train."""
    found = []
    for process in processes(host):
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        found += [process] if words[0] == sys.executable.encode() and b"train" in words else []
    return found


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"{what} did not come within {seconds:g} s"
        time.sleep(0.05)


def which(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"]))


def run(*words: str) -> None:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(words)}: {done.stderr.strip()}")


if __name__ == "__main__":
    main()
