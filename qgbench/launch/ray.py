"""Jobs as tasks of Ray: one started here for the suite, or a cluster that is there.

Jobs travel as JSON and give back a code and words; what became of them is in their folders, which all nodes must see. A
task has what its job needs as arguments, so that Ray itself puts it after them. Each has a process of its own. A task
whose process or node is lost is begun again by Ray and continues from the checkpoint of its run.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from qgbench.base.errors import QGBenchError, UserError
from qgbench.base.interruption import Interrupted, interruptible
from qgbench.base.locks import BusyError
from qgbench.base.logs import QUIET, logger, set_verbosity
from qgbench.data.cards import DATA_VARIABLE
from qgbench.data.content import CACHE_VARIABLE
from qgbench.launch.executor import Ending, Executor, Request
from qgbench.launch.job import NOT_NOW, Job, NotReadyError, carry_out

if TYPE_CHECKING:
    from ray import ObjectRef

_RETRIES = 2  # of a task whose process or node was lost
_ANSWER_SECONDS = 15.0  # that connecting to a cluster may take
_SILENCE_SECONDS = 30.0  # that a head may be away; after 60 Ray ends the process that is connected to it
_SAVING_SECONDS = 120.0  # between asking tasks to end and killing them; a step and a checkpoint take far less
_BUSY_SECONDS = 60.0  # that the process of a lost node may outlive it
_STORE_BYTES = 100 * 2**20  # no arrays go through Ray
_CLIENT = "ray://"
_CONNECT = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"


class RayExecutor(Executor):
    """Tasks of Ray, one processor for each thread of a run.

    A task whose process is lost is begun again twice by Ray, and then given up. (Ray counts processes that it killed
    for want of memory apart; in a cluster that was not started here, ``RAY_task_oom_retries`` of its head limits them.)

    Parameters
    ----------
    address : str, optional
        ``HOST:PORT``, ``ray://HOST:PORT`` or ``auto`` (the cluster of this machine); a Ray of its own, on this machine
        alone, if not given.
    gpus : float
        GPUs of a job that trains: 0.5 lets two share one. 0: one for each job of device cuda, none for others.

    Raises
    ------
    UserError
        Ray is not installed, or more than one GPU is asked for and not a whole number.
    QGBenchError
        The cluster does not answer within 15 s, or Ray cannot be started here.
    """

    queues = True
    slots = None

    def __init__(self, address: str | None = None, gpus: float = 0) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("this executor needs Ray, which is not installed: pip install 'qgbench[ray]'") from error
        if gpus > 1 and gpus != int(gpus):
            raise UserError(f"--gpus {gpus:g}: Ray gives a part of one GPU (0.5) or whole GPUs (2).")
        self._address = address
        self._gpus = gpus
        if address is None:
            _start()
        else:
            _connect(address)
        self._task = ray.remote(max_calls=1)(carry_out_json)
        self._head = None if (address or "").startswith(_CLIENT) else ray.get_runtime_context().gcs_address
        self._silent_since: float | None = None
        self._too_large: set[str] = set()  # demands that no node meets
        self._jobs: dict[str, Job] = {}
        self._refs: dict[str, ObjectRef[Any]] = {}
        self._endings: dict[str, Ending] = {}

    @classmethod
    def start(cls, request: Request) -> Self:
        """Return the engine, as `RayExecutor` takes what is asked."""
        return cls(request.address, request.gpus)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs, each behind those that it needs and that Ray holds.

        Raises
        ------
        UserError
            A job takes more than this machine has, and Ray was started here.
        QGBenchError
            Ray went away.
        """
        import ray

        with self._answering():
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            for job in jobs:
                options = task_options(job, self._gpus)
                self._require_room(options, nodes)
                awaited = [self._refs[need] for need in job.needs if need in self._refs]
                task = self._task.options(**options)
                self._refs[job.name] = task.remote(job.model_dump_json(), str(Path.cwd()), *awaited)
                self._jobs[job.name] = job

    def alive(self) -> set[str]:
        """Return the names of jobs that Ray holds: queued, running, or begun again.

        Raises
        ------
        QGBenchError
            Ray went away.
        """
        if self._refs:
            self._require_head()
            with self._answering():
                self._collect(0)
        return set(self._refs)

    def endings(self) -> dict[str, Ending]:
        """Return what tasks gave back since the last call, or how Ray lost them."""
        ended, self._endings = self._endings, {}
        return ended

    def stop(self) -> None:
        """Cancel what is queued; ask what runs to save its state and end, and kill what does not; then leave Ray.

        A Ray that was started here is shut down, a cluster is not.
        """
        import ray

        try:
            for seconds, force in ((_SAVING_SECONDS, False), (0.0, True)):
                for ref in self._refs.values():
                    ray.cancel(ref, force=force)
                self._collect(seconds)
        except (ray.exceptions.RayError, ConnectionError, QGBenchError) as error:
            logger.debug("Ray went away before its jobs were ended: %r", error)
        self._refs.clear()
        ray.shutdown()

    def _collect(self, seconds: float) -> None:
        """Wait so long for all tasks, and note those that have ended."""
        import ray

        if not self._refs:
            return
        names = {ref: name for name, ref in self._refs.items()}
        ended, _ = ray.wait(list(names), num_returns=len(names), timeout=seconds)
        for ref in ended:
            self._endings[names[ref]] = self._ending(self._jobs[names[ref]], ref)
            del self._refs[names[ref]]

    def _ending(self, job: Job, ref: "ObjectRef[Any]") -> Ending:
        import ray
        from ray import exceptions as lost

        try:
            code, said = ray.get(ref)
        except lost.RayTaskError as error:
            if isinstance(error.cause, lost.RayError):  # of a task that it was to follow
                return Ending(NOT_NOW, "what it needs was lost")
            return Ending(1, str(error).strip().splitlines()[-1])
        except lost.TaskCancelledError:
            return Ending(None, "its task was cancelled")
        except lost.LocalRayletDiedError as error:
            raise self._gone("its process on this machine ended") from error
        except (lost.WorkerCrashedError, lost.NodeDiedError, lost.OutOfMemoryError) as error:
            return Ending(1, f"its process was lost {_RETRIES + 1} times; Ray says: {_first_line(error)}")
        except lost.RayError as error:
            return Ending(1, f"Ray could not carry it out: {_first_line(error)}")
        if code == 0 and job.folder.status() is None:
            said = f"{said} did it, and {job.output} there is not the folder of this machine: choose a shared --output"
        return Ending(code, said)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Turn a lost connection into an error that says what to do."""
        import ray

        try:
            yield
        except (ray.exceptions.RayError, ConnectionError) as error:
            raise self._gone(_first_line(error)) from error

    def _require_head(self) -> None:
        """Refuse to go on without the head of the cluster, before Ray ends this process for its absence."""
        if self._head is None:  # Ray's client looks after its connection
            return
        host, _, port = self._head.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
            self._silent_since = None
        except OSError as error:
            now = time.monotonic()
            if self._silent_since is None:
                self._silent_since = now
            elif now - self._silent_since > _SILENCE_SECONDS:
                raise self._gone(f"no answer from {self._head}: {error}") from error

    def _gone(self, why: str) -> QGBenchError:
        which = "that was started here" if self._address is None else f"at {self._address}"
        look = "memory and the logs in /tmp/ray/session_latest/logs" if self._address is None else "ray status"
        return QGBenchError(
            f"the Ray {which} went away ({why}). See {look}; then give the same command again: what was done is kept, "
            "and runs continue from their last checkpoint."
        )

    def _require_room(self, options: Mapping[str, Any], nodes: Sequence[Mapping[str, float]]) -> None:
        """Refuse a job that would wait for ever; in a cluster, which may grow, only say so."""
        cpus, gpus = options["num_cpus"], options["num_gpus"]
        demand = f"{cpus} processor{'s' if cpus > 1 else ''}" + (f" and {gpus:g} GPU" if gpus else "")
        if demand in self._too_large or any(
            node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes
        ):
            return
        if self._address is None:
            largest = max(nodes, key=lambda node: node.get("CPU", 0))
            raise UserError(
                f"a job takes {demand}, and Ray found {largest.get('CPU', 0):g} processors and "
                f"{largest.get('GPU', 0):g} GPU here: set threads in the suite, --gpus, or --address of a cluster."
            )
        self._too_large.add(demand)
        logger.warning("no node of the Ray at %s has %s; such jobs wait until one joins.", self._address, demand)


def task_options(job: Job, gpus: float) -> dict[str, Any]:
    """Return what Ray is to give a job, as ``ray.remote`` takes it.

    Parameters
    ----------
    job : Job
    gpus : float
        As `RayExecutor` takes it.
    """
    threads = job.spec.threads
    trains = job.kind != "data"
    passed = {name: os.environ[name] for name in (CACHE_VARIABLE, DATA_VARIABLE) if name in os.environ}
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),  # as with processes of this machine
    }
    return {
        "name": job.name,
        "num_cpus": threads,
        "num_gpus": (gpus or float(job.spec.device == "cuda")) if trains else 0.0,
        "max_retries": _RETRIES,
        "runtime_env": {"env_vars": environment | passed},
    }


def carry_out_json(text: str, directory: str, *_: object) -> tuple[int, str]:
    """Do a job in a process of Ray's.

    Parameters
    ----------
    text : str
        The job as JSON.
    directory : str
        Where the command was given: names of files in the job are relative to it.
    *_
        What the jobs gave back that this one comes after.

    Returns
    -------
    code : int
        As `qgbench.launch.job.main` gives it.
    text : str
        Why, if it is not 0; else the machine's name.
    """
    set_verbosity(QUIET)
    with suppress(OSError):  # a cluster without this folder: what is named in full is found all the same
        os.chdir(directory)
    try:
        with interruptible():
            _carry_out_alone(Job.model_validate_json(text))
    except (BusyError, NotReadyError) as error:
        return NOT_NOW, str(error)
    except QGBenchError as error:
        return error.exit_code, str(error)
    except Interrupted as interruption:
        return 128 + interruption.number, f"stopped by {interruption}"
    except Exception as error:  # raised to Ray it would end the tasks that come after
        return 1, f"{type(error).__name__}: {error}"
    return 0, socket.gethostname()


def _carry_out_alone(job: Job) -> None:
    """Do a job once no other process is at it; where its node was lost, its former process may outlive that."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return carry_out(job)
        except BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def _start() -> None:
    """Start a Ray of one's own on this machine."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with _former_handler():
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                # Ray gives way to everything else on a machine (niceness 15) unless it is told not to.
                _system_config={"task_oom_retries": _RETRIES, "worker_niceness": 0},
            )
    except (RuntimeError, OSError, ray.exceptions.RayError) as error:
        raise QGBenchError(
            f"Ray cannot be started here: {_first_line(error)}. See /tmp/ray/session_latest/logs, or choose another "
            "--executor."
        ) from error


def _connect(address: str) -> None:
    """Connect to a cluster. Tried in another process first: Ray itself waits without end, or ends its process."""
    import ray

    try:
        tried = subprocess.run(
            [sys.executable, "-c", _CONNECT, address], capture_output=True, text=True, timeout=_ANSWER_SECONDS
        )
        said = "" if tried.returncode == 0 else (tried.stderr.strip() or f"exit code {tried.returncode}")
    except subprocess.TimeoutExpired:
        said = f"no answer within {_ANSWER_SECONDS:g} s"
    if not said:
        try:
            with _former_handler():
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            return
        except (RuntimeError, OSError, ray.exceptions.RayError) as error:
            said = str(error)
    raise QGBenchError(
        f"the Ray at {address} does not answer ({said.splitlines()[-1]}). Check the address, that the cluster is up "
        "(ray status on its head), and that no firewall is between; ray start --head starts one. Without --address a "
        "Ray is started here."
    )


@contextmanager
def _former_handler() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces by one that ends the process at once."""
    former = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, former)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
