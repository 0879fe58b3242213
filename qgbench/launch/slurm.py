"""Jobs as a Slurm cluster's: arrays through submitit, each job queued behind those that it needs.

Jobs travel as JSON, and what became of them is in their folders, which the whole cluster must see. Which jobs Slurm
holds is asked of squeue: submitit asks sacct, and where Slurm keeps no accounts a job that was killed would seem to be
under way for ever.

Before the time limit Slurm sends SIGUSR2. The job saves its state at the end of the step, requeues itself, and goes on
from there once it is begun again.
"""

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from qgbench.base.errors import QGBenchError, UserError, unwritable
from qgbench.base.interruption import Interrupted, interruptible
from qgbench.base.locks import BusyError
from qgbench.base.logs import QUIET, logger, set_verbosity
from qgbench.launch.executor import Ending, Executor, Request
from qgbench.launch.job import JOBS, NOT_NOW, Job, NotReadyError, carry_out

if TYPE_CHECKING:
    from submitit.core.utils import JobPaths

_COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
_SET_HERE: Mapping[str, str] = {
    **dict.fromkeys(("array", "dependency", "error", "open-mode", "output", "requeue", "signal"), "leave it out"),
    "cpus-per-task": "it follows the threads of a run",
    "gpus-per-node": "use --gpus",
}
_MINUTES = 240
_WARNING = signal.SIGUSR2
_LONGEST_WARNING = 120  # seconds before the time limit
_KINDS = ("data", "g", "run")  # what a job needs is of a kind before its own
_ANSWER_SECONDS = 10.0  # that a command of Slurm may take
_SILENCE_SECONDS = 120.0  # that a controller may be away (restarted, overloaded) before a suite gives up
_PAUSE = 5.0  # seconds between two questions to a controller that is away
_SAVING_SECONDS = 120.0  # between asking jobs to end and killing them; a step and a checkpoint take far less
_REMINDER_SECONDS = 30.0  # a job that was just being started may have missed the first signal
_ENDING_SECONDS = 60.0  # that Slurm may need to end what it was told to kill; its KillWait is 30 by default
_REQUEUES = 20  # a job that has not ended after so many time limits is given back
_LAST_WORDS = 2000  # characters
_STUCK = re.compile("held|BadConstraints|PartitionTimeLimit|PartitionNodeLimit|NeverSatisfied", re.IGNORECASE)
"""Reasons of squeue for jobs that will not begin by themselves."""


def parse_options(texts: Sequence[str]) -> dict[str, str]:
    """Read settings of sbatch: ``partition=gpu``, ``time=120`` (minutes), ``mem=8G``.

    Raises
    ------
    UserError
        A text is not of that form, the time is not whole minutes, or qgbench sets the option itself.
    """
    options: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip().lstrip("-").replace("_", "-")
        if not (key and equals and value):
            raise UserError(f"--slurm {text}: expected KEY=VALUE, an option of sbatch without dashes: partition=gpu.")
        if key in _SET_HERE:
            raise UserError(f"--slurm {text}: qgbench sets {key} itself; {_SET_HERE[key]}.")
        options[key] = value
    if (time := options.get("time")) is not None and not re.fullmatch("[1-9][0-9]*", time):
        raise UserError(f"--slurm time={time}: expected whole minutes, 1 or more, such as 120.")
    return options


class _NoAnswerError(QGBenchError):
    """A command of Slurm failed or took too long."""


class SlurmExecutor(Executor):
    """Jobs of a Slurm cluster, one CPU for each thread of a run.

    Parameters
    ----------
    output : Path
        Folder of all runs, on a file system that all nodes share; what Slurm's processes say is kept in ``jobs/slurm``.
    options : mapping, optional
        Settings of sbatch, as `parse_options` gives them. ``time`` is in minutes, 240 if not given; a job that reaches
        it is requeued and continues.
    gpus : float
        GPUs of a job that trains, a whole number; 1 if it is for 'cuda' and none is asked for.

    Raises
    ------
    UserError
        submitit is not installed, or a part of a GPU is asked for.
    QGBenchError
        Slurm's commands are missing, or its controller does not answer.
    """

    queues = True
    slots = None

    def __init__(self, output: Path, options: Mapping[str, str] | None = None, gpus: float = 0) -> None:
        try:
            import submitit  # noqa: F401 - an extra; `_submit_array` uses it
        except ImportError as error:
            raise UserError("Slurm needs submitit, which is not installed: pip install 'qgbench[slurm]'") from error
        if gpus != int(gpus):
            raise UserError(f"--gpus {gpus:g}: Slurm gives whole GPUs; ask for 1, or share one with --executor ray.")
        self._folder = output.absolute() / JOBS / "slurm"
        self._gpus = int(gpus)
        self._options = dict(options or {})
        self._minutes = int(self._options.pop("time", _MINUTES))
        self._largest_array = _largest_array()
        self._held: dict[str, JobPaths] = {}  # the jobs that Slurm holds, by name
        self._endings: dict[str, Ending] = {}
        self._silent_since: float | None = None
        self._stuck: set[str] = set()

    @classmethod
    def start(cls, request: Request) -> Self:
        """Return the engine, as `SlurmExecutor` takes what is asked."""
        return cls(request.output, parse_options(list(request.options)), request.gpus)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs: those with equal needs as one array, which begins when the needs have ended."""
        while not self._look():
            time.sleep(_PAUSE)
        for kind in _KINDS:
            arrays: dict[tuple[int, int, tuple[str, ...]], list[Job]] = {}
            for job in jobs:
                if job.kind == kind:
                    gpus = 0 if kind == "data" else self._gpus or int(job.spec.device == "cuda")
                    awaited = tuple(str(self._held[need].job_id) for need in job.needs if need in self._held)
                    arrays.setdefault((job.spec.threads, gpus, awaited), []).append(job)
            for (threads, gpus, awaited), members in arrays.items():
                for first in range(0, len(members), self._largest_array):
                    part = members[first : first + self._largest_array]
                    self._submit_array(part, f"qgbench-{kind}", threads, gpus, awaited)

    def alive(self) -> set[str]:
        """Return the names of jobs that Slurm holds: queued, running, or queued again; while it is silent, as before.

        Raises
        ------
        QGBenchError
            Slurm's controller has not answered for two minutes.
        """
        self._look()
        return set(self._held)

    def endings(self) -> dict[str, Ending]:
        """Return what jobs that left Slurm since the last call gave back, or the end of what they wrote to stderr."""
        ended, self._endings = self._endings, {}
        return ended

    def stop(self) -> None:
        """Cancel what is queued; ask what runs to save its state and end, and kill what does not."""
        try:
            if self._end_jobs(_SAVING_SECONDS, kill=False) and self._end_jobs(_ENDING_SECONDS, kill=True):
                logger.warning("Slurm still holds jobs that it was told to kill: %s.", " ".join(self._ids()))
        except QGBenchError as error:
            logger.warning("%s Its jobs may go on; end them with: scancel %s", error, " ".join(self._ids()))

    def _ids(self) -> list[str]:
        return [str(paths.job_id) for paths in self._held.values()]

    def _look(self) -> bool:
        """Ask which jobs Slurm holds and note those that left it; return whether it answered."""
        try:
            answer = _ask("squeue", "--noheader", "--array", "--format=%i|%r", f"--user={os.getuid()}")
        except _NoAnswerError as error:
            self._bear(error)
            return False
        self._silent_since = None
        reasons = dict(line.strip().split("|", 1) for line in answer.splitlines())
        for name, paths in list(self._held.items()):
            reason = reasons.get(str(paths.job_id))
            if reason is None:
                del self._held[name]
                self._endings[name] = _ending(paths)
            elif _STUCK.search(reason) and name not in self._stuck:
                self._stuck.add(name)
                logger.warning("Slurm does not begin job %s (%s): %s. See man squeue.", paths.job_id, name, reason)
        return True

    def _bear(self, error: _NoAnswerError) -> None:
        """Put up with a silent controller for a while."""
        if self._silent_since is None:
            self._silent_since = time.monotonic()
            logger.warning("%s It is asked again.", error)
        elif time.monotonic() - self._silent_since > _SILENCE_SECONDS:
            raise error

    def _submit_array(self, jobs: Sequence[Job], name: str, threads: int, gpus: int, awaited: Sequence[str]) -> None:
        import submitit

        warning = min(_LONGEST_WARNING, 20 * self._minutes)
        executor = submitit.AutoExecutor(folder=self._folder, cluster="slurm")
        executor.update_parameters(
            name=name,
            timeout_min=self._minutes,
            cpus_per_task=threads,
            gpus_per_node=gpus or None,
            slurm_dependency=f"afterany:{':'.join(awaited)}" if awaited else None,
            slurm_setup=[
                f"export OMP_NUM_THREADS={threads}",
                "export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}",  # as with processes of this machine
            ],
            slurm_srun_args=[f"--cpus-per-task={threads}"],  # srun does not take it over from sbatch (since 22.05)
            slurm_additional_parameters={"requeue": True, "signal": f"{_WARNING.name}@{warning}"} | self._options,
        )
        try:
            with ExitStack() as stack:
                if "SLURM_JOB_ID" in os.environ:  # this process is a job itself, whose settings are not theirs
                    configuration = os.environ.get("SLURM_CONF")
                    stack.enter_context(submitit.helpers.clean_env())
                    if configuration is not None:
                        os.environ["SLURM_CONF"] = configuration
                submitted = executor.map_array(carry_out_json, [job.model_dump_json() for job in jobs])
        except OSError as error:
            raise unwritable(self._folder, error, "choose another --output") from error
        except submitit.core.utils.FailedJobError as error:
            raise QGBenchError(
                f"Slurm refused jobs: {str(error).strip()}. Check what --slurm and --gpus give."
            ) from error
        self._held |= {job.name: each.paths for job, each in zip(jobs, submitted, strict=True)}

    def _end_jobs(self, seconds: float, kill: bool) -> bool:
        """Tell all jobs to end, wait for it, and return whether any is left."""
        begin = time.monotonic()
        due = begin
        while self.alive() and time.monotonic() < begin + seconds:
            if time.monotonic() >= due:
                due += _REMINDER_SECONDS
                # Without --signal Slurm would end srun together with the job, which kills what has not ended yet.
                for words in [[]] if kill else [["--state=PENDING"], ["--state=RUNNING", "--signal=TERM"]]:
                    _tell("scancel", *words, *self._ids())
            time.sleep(1.0)
        return bool(self._held)


def carry_out_json(text: str) -> tuple[int, str]:
    """Do a job that Slurm has begun; on Slurm's warning that its time is over, save its state and queue it again.

    Parameters
    ----------
    text : str
        The job as JSON.

    Returns
    -------
    code : int
        As `qgbench.launch.job.main` gives it.
    text : str
        Why, if it is not 0.
    """
    set_verbosity(QUIET)
    try:
        # submitit has a handler for the warning too, which would end the process in the middle of a step.
        with interruptible():
            carry_out(Job.model_validate_json(text))
    except (BusyError, NotReadyError) as error:
        return NOT_NOW, str(error)
    except QGBenchError as error:
        return error.exit_code, str(error)
    except Interrupted as interruption:
        if interruption.number == _WARNING:
            return _requeue()
        return 128 + interruption.number, f"stopped by {interruption}"
    return 0, ""


def _requeue() -> tuple[int, str]:
    """Put the job that this process is back into the queue and end, or return why it cannot be."""
    limits = int(os.environ.get("SLURM_RESTART_COUNT", "0")) + 1
    if limits > _REQUEUES:
        return 128 + _WARNING, f"reached its time limit {limits} times; give it more time or threads"
    try:
        _ask("scontrol", "requeue", os.environ["SLURM_JOB_ID"])
    except _NoAnswerError as error:
        return NOT_NOW, f"its time is over, its state is saved, and it was not requeued: {error}"
    sys.exit(0)  # and submitit writes no result


def _largest_array() -> int:
    """Return how many jobs an array may have; the controller is asked, which shows that it answers."""
    if missing := [name for name in _COMMANDS if shutil.which(name) is None]:
        raise QGBenchError(
            f"Slurm's {', '.join(missing)} not found on the PATH: give the command on a login node of the cluster, or "
            "choose another --executor."
        )
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"))
    return max(1, int(found[1]) - 1) if found else 1


def _ask(*command: str) -> str:
    """Return what a command of Slurm prints.

    Raises
    ------
    _NoAnswerError
        It failed or took too long.
    """
    # Variables like SQUEUE_STATES would hide jobs.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SQUEUE_")}
    try:
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        said = f"no answer within {_ANSWER_SECONDS:g} s"
    except OSError as error:
        said = str(error)
    else:
        if answer.returncode == 0:
            return answer.stdout
        said = answer.stderr.strip() or f"exit code {answer.returncode}"
    raise _NoAnswerError(
        f"Slurm does not answer ({' '.join(command[:2])}: {said}). See scontrol ping; if its controller is down, "
        "wait or choose another --executor; what was done is kept."
    )


def _tell(*command: str) -> None:
    """Return a command to Slurm that may come too late: the job has ended in the meantime."""
    try:
        _ask(*command)
    except _NoAnswerError as error:
        logger.debug("%s", error)


def _ending(paths: "JobPaths") -> Ending:
    try:
        outcome, result = pickle.loads(paths.result_pickle.read_bytes())
    except (OSError, EOFError, pickle.UnpicklingError):  # it was killed
        return Ending(None, _last_words(paths.stderr))
    return Ending(*result) if outcome == "success" else Ending(1, result.strip().splitlines()[-1])


def _last_words(file: Path) -> str:
    """Return what Slurm said of a job at last ('srun: error: node7: task 0: Killed'), or else the job itself."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    told = [line for line in lines if line.startswith(("srun: ", "slurmstepd: "))]
    return " ".join(told[-2:]) or "\n".join(lines)[-_LAST_WORDS:].strip()
