"""Running a sweep: every trial once, on the workers of one machine or of many, across any interruptions."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import statistics
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpunet.errors import CheckpointError, ConfigError, DataError, GpunetError, OutputError
from gpunet.experiments.config import to_toml
from gpunet.experiments.inference import evaluate
from gpunet.experiments.records import NUMBER, SHARE, TEXT, Kind, check_entries, read_json
from gpunet.files import PathLike, lock_folder, remove_temporaries, write_text_atomic
from gpunet.report.metrics import wilson_interval
from gpunet.sweep.declaration import Point, Sweep, Trial
from gpunet.sweep.engines import Engine, cluster, processes
from gpunet.sweep.pool import WorkerLost
from gpunet.sweep.progress import SweepProgress
from gpunet.sweep.search import search_of
from gpunet.sweep.summary import best_point, metric_of, point_objective
from gpunet.sweep.table import FAILED, Outcome, Row, write_table
from gpunet.sweep.trial import OUTCOME, drop_checkpoints, read_outcome, write_outcome
from gpunet.sweep.work import TOKEN, Order, Report, run_order, store
from gpunet.training.trainer import BEST

TABLE, DECLARATION, TEST = "table.csv", "sweep.toml", "test.json"

logger = logging.getLogger("gpunet")

ATTEMPTS = 3
"""How often a trial is started, if its worker is killed each time."""

_LIST = Kind("a list", lambda value: isinstance(value, list))
_INTERVAL = Kind("two numbers from 0 to 1", lambda value: _LIST.fits(value) and [*map(SHARE.fits, value)] == [True] * 2)
_TEST = {"trials": _LIST, "mean": SHARE, "interval": _INTERVAL}
_TEST_OF_OTHERS = {"trials": _LIST, "mean": NUMBER, "metric": TEXT}

_LOCK_PATIENCE = 10.0
"""Seconds to wait for the workers of a killed sweep to end."""


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep."""

    sweep: Sweep
    folder: Path
    rows: list[Row]
    best: list[Row]
    """Of the point with the best mean of the monitored metric, one per seed; empty if no point has all its seeds."""
    test: dict[str, Any] | None
    """The test results of the best point, if the declaration requests them."""

    @property
    def table(self) -> Path:
        return self.folder / TABLE


def run_sweep(
    sweep: Sweep,
    folder: PathLike,
    *,
    workers: int = 1,
    threads: int | None = None,
    device: str | None = None,
    where: str | None = None,
    keep_checkpoints: bool = False,
    retry_failed: bool = False,
    progress: bool = True,
) -> SweepResult:
    """Run all trials of `sweep` that are not yet finished in `folder`, and write their table.

    `folder` gets ``table.csv``, a copy of the declaration, and under ``trials/`` a run folder for each trial, named
    after its settings. Finished trials are not repeated, and an interrupted one resumes after its last epoch: however
    often a sweep is interrupted, its table is the same except for the timing columns. When the file changes, trials
    whose settings stay the same are kept.

    A trial whose worker is killed, such as for want of memory, is resumed from its last epoch, twice at most. After
    that its rows in the table say ``failed``, but it counts as interrupted, not as finished: its checkpoints are kept,
    the next call resumes it, and only a call that finishes all trials evaluates the test images. (optuna takes it for a
    failure, so that the next call may propose other points after it.)

    On a cluster, workers that share the folder with this process train in it; the files of others come back when a
    trial is over.

    Args:
        workers: number of processes that train in parallel; they share the threads.
        threads: total of all workers; by default one per core.
        device: of all workers.
        where: the workers: None for processes of this machine, or as in :func:`gpunet.sweep.engines.cluster`
            ``local``, ``slurm``, ``mpi`` or the address of a Dask scheduler, whose workers are as many as they are.
        keep_checkpoints: keep the weights in the folders of the trials.
        retry_failed: train failed trials again, in case the cause is gone.
        progress: show the progress on stderr.

    Raises:
        ConfigError: more workers than threads, workers or threads for a cluster that has its own, the search or the
            cluster needs a package that is not installed, or the scheduler does not answer.
        OutputError: another sweep is running in `folder`, or it cannot be written to.
        DataError, DeviceError: as for a single run; finished trials are kept.

    >>> from pathlib import Path
    >>> from gpunet.sweep import Axis, Sweep, run_sweep
    >>> np.savez("pets.npz", X=np.zeros((40, 8, 8), np.uint8), y=["cat", "dog"] * 20)
    >>> hidden = Axis("hidden", tuple(map(Axis("hidden").choice, ((4,), (8,)))))
    >>> sweep = Sweep("hidden", "mlp", "baseline", {"data": "pets.npz", "epochs": 1}, (hidden,))
    >>> result = run_sweep(sweep, Path("sweeps/hidden"), progress=False)  # doctest: +SKIP
    >>> [(row.values["hidden"], row.seed, row.outcome.status) for row in result.rows][:2]  # doctest: +SKIP
    [('4', 0, 'ok'), ('4', 1, 'ok')]
    """
    folder = Path(folder)
    if where not in (None, "local") and threads is not None:
        raise ConfigError(f"threads={threads} is of this machine: set NUMBA_NUM_THREADS where the workers start")
    if where not in (None, "local", "slurm") and workers != 1:
        raise ConfigError(f"workers={workers} is of a cluster that this sweep starts: {where!r} has its own workers")
    threads = threads or len(os.sched_getaffinity(0))
    if where in (None, "local") and not 1 <= workers <= threads:
        raise ConfigError(f"{workers} workers cannot share {threads} threads: give 1 to {threads} workers")
    search = search_of(sweep)
    busy = f"another sweep is running in {folder}: wait for it, or give another --out"
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(lock_folder(folder, busy, patience=_LOCK_PATIENCE))
        engine = stack.enter_context(cluster(where, workers, threads // workers, device=device)) if where else None
        shown = stack.enter_context(SweepProgress(quiet=not progress))
        remove_temporaries(folder)
        write_text_atomic(folder / DECLARATION, sweep.text)
        run = _Run(sweep, folder, shown, device=device, keep=keep_checkpoints, retry_failed=retry_failed)
        values: list[float | None] = []
        while points := search.more(values):
            groups = run.enter(points)
            if run.jobs and engine is not None:
                run.train(engine)
            elif run.jobs:
                count = min(workers, len(run.jobs))
                with processes(count, threads // workers, log=folder, lock=lock) as own:
                    run.train(own)
            values += [_objective([run.rows[number] for number in group]) for group in groups]
        run.write()
        rows = [run.rows[number] for number in sorted(run.rows)]
        best = best_point(rows)
        test = None
        if run.killed:
            logger.warning("%d of %d trials were killed; the same command resumes them", run.killed, len(rows))
        else:
            test = _test(run, best) if sweep.options.evaluate_test and best else None
            run.clean()
    return SweepResult(sweep, folder, rows, best, test)


@dataclass(eq=False)
class _Job:
    """A pending training run; it fills several rows if a search chose a point more than once."""

    trial: Trial
    folder: Path
    rows: list[int]
    kills: int = 0
    """How many of its workers have ended before it."""
    before: int = 0
    """Number of epochs that it had when its worker started it."""


class _Run:
    """The state of a running sweep: the rows known so far, and the pending jobs."""

    def __init__(
        self,
        sweep: Sweep,
        folder: Path,
        progress: SweepProgress,
        *,
        device: str | None,
        keep: bool,
        retry_failed: bool,
    ) -> None:
        self.sweep, self.folder, self.progress = sweep, folder, progress
        self.device, self.keep, self.retry_failed = device, keep, retry_failed
        self.rows: dict[int, Row] = {}
        self.trials: list[Trial] = []
        self.jobs: list[_Job] = []
        self.warned: set[str] = set()
        self.sharing = True
        """Whether all workers have been seen to share the folder of the sweep."""
        self.killed = 0
        """Number of rows whose trial was given up because its workers were killed."""

    def trial_folder(self, trial: Trial) -> Path:
        return self.folder / "trials" / trial.digest

    def enter(self, points: list[Point]) -> list[list[int]]:
        """Add `points`; returns the row numbers of each. Finished trials are filled in, the others become jobs."""
        groups = [self.sweep.trials(point) for point in points]
        first = len(self.trials) + 1
        new = [trial for group in groups for trial in group]
        self.trials += new
        for trial in new:
            self.progress.add(trial.epochs)
        jobs: dict[str, _Job] = {}
        for number, trial in enumerate(new, start=first):
            if trial.config is None:
                self._fill(number, Outcome(FAILED, error=trial.error), before=True)
                continue
            outcome = read_outcome(self.trial_folder(trial))
            if outcome is not None and (outcome.ok or not self.retry_failed):
                self._fill(number, outcome, before=True)
                continue
            job = jobs.setdefault(trial.digest, _Job(trial, self.trial_folder(trial), []))
            job.rows.append(number)
        self.jobs = list(jobs.values())
        self.write()
        ends = [sum(map(len, groups[: place + 1])) for place in range(len(groups))]
        return [list(range(first + end - len(group), first + end)) for group, end in zip(groups, ends, strict=True)]

    def train(self, engine: Engine) -> None:
        """Run all jobs on the workers of `engine`."""
        running: dict[Future[Report], _Job] = {}
        with self._workplace(engine) as token:
            try:
                while self.jobs or running:
                    self._hand_out(engine, running, token)
                    done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                    for job in running.values():
                        self.progress.epochs(job.rows[0], _epochs(job.folder) - job.before)
                    for future in done:
                        self._take(running.pop(future), future, engine)
            finally:
                for future in running:
                    future.cancel()

    @contextlib.contextmanager
    def _workplace(self, engine: Engine) -> Iterator[str]:
        """What workers on other machines must read in the folder of the sweep to know that they share it."""
        if not engine.remote:
            yield ""
            return
        token = secrets.token_hex(16)
        write_text_atomic(self.folder / TOKEN, token)
        try:
            yield token
        finally:
            (self.folder / TOKEN).unlink(missing_ok=True)

    def _hand_out(self, engine: Engine, running: dict[Future[Report], _Job], token: str) -> None:
        while len(running) < engine.slots:
            busy = {other.trial.cnn_digest for other in running.values()} - {""} if self.sharing else set()
            # Hybrids that share a CNN wait until one of them has trained it.
            waiting = (job for job in self.jobs if job.trial.cnn_digest not in busy or self._shared(job.trial).exists())
            job = next(waiting, None)
            if job is None:
                return
            assert job.trial.config is not None
            self.jobs.remove(job)
            if self.retry_failed:
                (job.folder / OUTCOME).unlink(missing_ok=True)
            job.before = _epochs(job.folder)
            order = Order(
                to_toml(job.trial.config),
                home=str(self.folder.resolve()),
                folder=str(job.folder.relative_to(self.folder)),
                device=self.device,
                shared_cnn=str(self._shared(job.trial).relative_to(self.folder)) if job.trial.cnn_digest else None,
                token=token,
                keep_best=self.keep or self.sweep.options.evaluate_test,
            )
            data = None
            if engine.send is not None:
                try:
                    data = engine.send(job.trial.config.data)
                except ConfigError as error:  # the settings do not fit the data: those of other trials may
                    outcome = Outcome(FAILED, error=str(error))
                    write_outcome(job.folder, outcome)
                    self._finish(job, outcome)
                    continue
            running[engine.executor.submit(run_order, order, data)] = job

    def _take(self, job: _Job, future: Future[Report], engine: Engine) -> None:
        try:
            report = future.result()
        except WorkerLost as lost:
            self._lost(job, lost)
            return
        except CancelledError:
            self._lost(job, WorkerLost("its task or its data were lost with a worker"))
            return
        except GpunetError:
            raise
        except Exception as error:
            given_up = engine.lost(error)
            if given_up is None:
                raise OutputError(f"a worker cannot run trials: {type(error).__name__}: {error}") from error
            job.kills = ATTEMPTS  # the executor has tried again itself
            self._lost(job, given_up)
            return
        for message in report.warnings:
            if message not in self.warned:  # each worker has the same to say of its device
                self.warned.add(message)
                logger.warning("trial %d: %s", job.rows[0], message)
        if report.files is not None:
            self.sharing = False
            store(report, job.folder)
        self._finish(job, report.outcome)

    def _lost(self, job: _Job, lost: WorkerLost) -> None:
        """Resume a job whose worker has ended, or give it up until the next call; it gets no outcome file."""
        job.kills += 1
        if job.kills < ATTEMPTS:
            remove_temporaries(job.folder)
            logger.warning("trial %d: %s; attempt %d of %d follows", job.rows[0], lost.reason, job.kills + 1, ATTEMPTS)
            self.jobs.insert(0, job)
            return
        for number in job.rows:
            self._fill(number, Outcome(FAILED, error=f"{lost.how} {ATTEMPTS} times: {lost.reason}"))
        self.killed += len(job.rows)
        self.write()

    def _finish(self, job: _Job, outcome: Outcome) -> None:
        if not self.keep:
            drop_checkpoints(job.folder, keep_best=self.sweep.options.evaluate_test)
        for number in job.rows:
            self._fill(number, outcome)
        self.write()

    def _fill(self, number: int, outcome: Outcome, *, before: bool = False) -> None:
        trial = self.trials[number - 1]
        self.rows[number] = Row(number, trial.point.labels, trial.seed, outcome)
        self.progress.over(self.rows[number], trial.epochs, before=before)

    def _shared(self, trial: Trial) -> Path:
        return self.folder / "shared" / trial.cnn_digest

    def write(self) -> None:
        """Write the rows known so far."""
        axes = [axis.name for axis in self.sweep.axes]
        write_table(self.folder / TABLE, axes, [self.rows[number] for number in sorted(self.rows)])

    def clean(self) -> None:
        """Remove what a resumed sweep no longer needs."""
        if not self.keep:
            for path in (self.folder / "trials").glob("*"):
                drop_checkpoints(path)
        shutil.rmtree(self.folder / "shared", ignore_errors=True)
        for path in self.folder.glob("worker-*.log"):
            if not path.stat().st_size:
                path.unlink()


def _epochs(folder: Path) -> int:
    """Number of epochs of the trial in `folder` so far; of all stages of a hybrid."""
    stages = list(folder.glob("stages/*/metrics.jsonl"))
    count = 0
    for path in stages or [folder / "metrics.jsonl"]:
        with contextlib.suppress(OSError):
            count += path.read_bytes().count(b"\n")
    return count


def _objective(rows: list[Row]) -> float | None:
    """The objective of a point, for the search: the mean over its seeds, None if one failed."""
    return point_objective(rows) if all(row.outcome.ok for row in rows) else None


def _test(run: _Run, best: list[Row]) -> dict[str, Any]:
    """The test results of the best point: read from the file if they exist, else evaluated and written.

    Raises:
        DataError: the file is damaged. ConfigError: the weights are no longer there.
    """
    path = run.folder / TEST
    folders = [run.trial_folder(run.trials[row.trial - 1]) for row in best]
    names = [folder.name for folder in folders]
    if path.exists():
        try:
            other = metric_of(best).name != "accuracy"
            known = check_entries(read_json(path), _TEST_OF_OTHERS if other else _TEST, str(path))
        except CheckpointError as error:
            raise DataError(f"{error}; remove it to evaluate the best point again") from error
        if known["trials"] == names:
            return known
    missing = [str(folder) for folder in folders if not (folder / BEST).exists()]
    if missing:
        raise ConfigError(
            f"the weights of the best point were not kept: remove {', '.join(missing)} and run the sweep again"
        )
    found = [evaluate(folder, device=run.device) for folder in folders]
    metric = metric_of(best)
    if metric.name != "accuracy":
        scores = [result.scores[metric.name] for result in found]
        document = {
            "values": best[0].values,
            "trials": names,
            "seeds": [row.seed for row in best],
            "metric": metric.name,
            "scores": scores,
            "mean": statistics.fmean(scores),
            "std": statistics.stdev(scores) if len(scores) > 1 else None,
        }
        write_text_atomic(path, json.dumps(document, indent=2) + "\n")
        return document
    mean = statistics.fmean(result.correct / result.total for result in found)
    total = found[0].total
    document = {
        "values": best[0].values,
        "trials": names,
        "seeds": [row.seed for row in best],
        "correct": [result.correct for result in found],
        "total": total,
        "mean": mean,
        "std": statistics.stdev(result.correct / total for result in found) if len(found) > 1 else None,
        "interval": list(wilson_interval(round(mean * total), total)),
    }
    write_text_atomic(path, json.dumps(document, indent=2) + "\n")
    return document
