"""A real SLURM of one node, in a folder of its own and on ports of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "scancel")
WITH_ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb", "mariadb-install-db", "sacct", "sacctmgr")
# no cgroups and no systemd, so that it runs inside a container; memory is watched by polling
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
{accounting}
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
JobRequeue=1
KillWait=5
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=01:00:00 State=UP
"""
ACCOUNTING = """AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket"""
DATABASE = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={storage}
StorageUser=slurm
StoragePass=test
StorageLoc=slurm_acct_db
"""


@dataclass(frozen=True)
class Slurm:
    """The cluster: how to reach it, and what it has done."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a user of it, who has no login name."""
        kept = {k: v for k, v in os.environ.items() if k != "LOGNAME" and not k.startswith("SLURM")}
        return {**kept, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
        command = [str(word) for word in words]
        environment = {**self.environment, **more}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def in_queue(self) -> list[str]:
        return self.call("squeue", "--noheader", "--array", "--format=%i").stdout.split()

    def finished(self) -> list[dict[str, str]]:
        """What the scheduler itself has noted of jobs that have ended."""
        path = self.folder / "jobs.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]

    def wait_until(self, happened: Callable[[], object], *, at_most_s: float = 1800) -> None:
        end = time.monotonic() + at_most_s
        while not happened():
            assert time.monotonic() < end, self.call("squeue", "--long").stdout
            time.sleep(0.3)

    def wait_until_empty(self) -> None:
        self.wait_until(lambda: not self.in_queue())


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start_database(slurm: Slurm, host: str, port: int) -> None:
    """Start what sacct asks: a database and the daemon before it."""
    folder, (storage,) = slurm.folder, free_ports(1)
    data, door = folder / "mysql", folder / "mysql.socket"
    data.mkdir()
    install = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}"]
    done = slurm.call(*install, "--auth-root-authentication-method=socket")
    assert done.returncode == 0, done.stdout + done.stderr
    server = [
        *("mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={door}"),
        *(f"--pid-file={folder}/mariadbd.pid", "--bind-address=127.0.0.1", f"--port={storage}"),
        *("--innodb-buffer-pool-size=128M", "--innodb-lock-wait-timeout=900"),
    ]
    with (folder / "mariadbd.log").open("w") as log:
        subprocess.Popen(server, stdout=log, stderr=log)
    statements = (
        "create database slurm_acct_db; create user slurm@'127.0.0.1' identified by 'test'; "
        "grant all on slurm_acct_db.* to slurm@'127.0.0.1';"
    )
    client = ("mariadb", "--no-defaults", f"--socket={door}", "-e", statements)
    slurm.wait_until(lambda: slurm.call(*client).returncode == 0)
    path = folder / "slurmdbd.conf"
    path.write_text(DATABASE.format(folder=folder, host=host, port=port, storage=storage))
    path.chmod(0o600)
    assert slurm.call("slurmdbd").returncode == 0
    add = ("timeout", "5", "sacctmgr", "--immediate", "add", "cluster", "test")
    slurm.wait_until(lambda: slurm.call(*add).returncode == 0)


def end_daemon(path: Path) -> None:
    """End the process that a file names, and wait until it writes no more."""
    try:
        process = psutil.Process(int(path.read_text()))
        process.terminate()
        process.wait(timeout=60)
    except (OSError, psutil.NoSuchProcess):
        return


@contextmanager
def running_slurm(folder: Path, *, with_accounting: bool = False) -> Iterator[Slurm]:
    """Start a cluster, and end it."""
    needed = (*NEEDED, *(WITH_ACCOUNTING if with_accounting else ()))
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        packages = "slurm-wlm munge" + (" slurmdbd mariadb-server" if with_accounting else "")
        pytest.skip(f"{', '.join(missing)} not installed (Debian: {packages})")
    if os.getuid() != 0:
        pytest.skip("a cluster of one's own is started by root only")
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    # munge trusts no folder that others may write to
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    controller, daemon, accounting = free_ports(3)
    host = socket.gethostname().partition(".")[0]
    values: Mapping[str, object] = {
        "host": host,
        "folder": folder,
        "controller": controller,
        "daemon": daemon,
        "accounting": ACCOUNTING.format(folder=folder, port=accounting)
        if with_accounting
        else "AccountingStorageType=accounting_storage/none",
    }
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
    munge = [
        *("munged", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"),
        *(f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log"),
        *(f"--seed-file={folder}/seed", "--num-threads=2"),
    ]
    slurm = Slurm(folder)
    try:
        assert slurm.call(*munge).returncode == 0
        if with_accounting:
            start_database(slurm, host, accounting)
        for command in (["slurmctld"], ["slurmd"]):
            done = slurm.call(*command)
            assert done.returncode == 0, done.stderr
        slurm.wait_until(lambda: "idle" in slurm.call("sinfo", "--noheader", "--format=%t").stdout)
        yield slurm
    finally:
        slurm.call("scancel", "--user=0")
        for name in ("slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged"):
            end_daemon(folder / f"{name}.pid")
