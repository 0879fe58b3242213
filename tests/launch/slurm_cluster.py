"""A Slurm cluster of one node on this machine, for tests and for trying: ``python -m tests.launch.slurm_cluster``.

It lives in a folder of its own and has its own authentication, ports and pid files, so that it meets no other Slurm.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

_DAEMONS = ("munged", "slurmctld", "slurmd")
_SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
_CONFIG = """\
ClusterName=qgbench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=2,sched_interval=2
ReturnToService=2
JobRequeue=1
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Why no cluster can be started here; '' if one can."""
    missing = [name for name in (*_DAEMONS, "sbatch") if shutil.which(name, path=_SEARCHED) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "Slurm's daemons need root"


@contextmanager
def slurm_cluster() -> Iterator[Path]:
    """Start a cluster of 2 processors; at the end, end its jobs and stop it.

    Yields
    ------
    Path
        Its slurm.conf: what the variable SLURM_CONF must hold for sbatch and the like.
    """
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path: that of a socket has a limit
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        config = folder / "slurm.conf"
        controller_port, node_port = _free_ports(2)
        places = {"host": socket.gethostname(), "folder": folder}
        config.write_text(_CONFIG.format(**places, controller_port=controller_port, node_port=node_port))
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munged.pid"}
        files |= {"log-file": folder / "munged.log", "seed-file": folder / "munge.seed"}
        for name, words in (
            ("munged", ["--force", *(f"--{option}={file}" for option, file in files.items())]),
            ("slurmctld", ["-c", "-f", str(config)]),
            ("slurmd", ["-c", "-f", str(config)]),
        ):
            stack.callback(_stop, folder / f"{name}.pid")
            command = shutil.which(name, path=_SEARCHED)
            assert command is not None, why_not()
            subprocess.run([command, *words], check=True, timeout=20, stdout=subprocess.DEVNULL)  # each daemonises
        stack.callback(_end_jobs, config)
        idle = lambda: "idle" in _ask(config, "sinfo", "--noheader", "--format=%T")  # noqa: E731
        assert _wait(idle, 20), (folder / "slurmctld.log").read_text()
        yield config


def _ask(config: Path, *command: str) -> str:
    """What a command of Slurm prints; '' if there is no answer."""
    with suppress(subprocess.TimeoutExpired):
        environment = os.environ | {"SLURM_CONF": str(config)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=5).stdout
    return ""


def _end_jobs(config: Path) -> None:
    ids = _ask(config, "squeue", "--noheader", "--format=%A").split()
    if ids:
        _ask(config, "scancel", *ids)
        _wait(lambda: not _ask(config, "squeue", "--noheader", "--format=%A"), 20)


def _stop(pid_file: Path) -> None:
    try:
        number = int(pid_file.read_text())
        os.kill(number, signal.SIGTERM)
    except (FileNotFoundError, ValueError, ProcessLookupError):  # it never began, or has ended
        return
    if not _wait(lambda: not _runs(number), 10):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def _runs(number: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(number, 0)
        return True
    return False


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until something holds, and tell whether it does."""
    end = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.2)
    return holds


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":
    with slurm_cluster() as conf:
        print(f"export SLURM_CONF={conf}\nuntil Ctrl-C", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        with suppress(KeyboardInterrupt):
            signal.pause()
